"""The ledger: what is owed and what was done. The truth of the installation; everything else rings bells."""
