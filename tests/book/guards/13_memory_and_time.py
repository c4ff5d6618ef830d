assert shallow == deep  # the process's largest size never falls
