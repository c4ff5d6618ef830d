"""The parts of the survival campaign: what each part does to capsnb, and how it sees whether capsnb survived."""
