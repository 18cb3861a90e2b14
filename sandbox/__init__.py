"""Stand-ins to develop, demonstrate and test against: a shop, a management system and an SQS endpoint."""
