"""What `tools/survive.py` tries: processes that are killed, full disks, damaged files, settings of others."""
