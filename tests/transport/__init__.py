"""The transport held to what it promises, beside kombu's own."""
