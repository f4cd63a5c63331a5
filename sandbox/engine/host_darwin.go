package engine

func processLimit() (uint64, bool) { return 0, false }
