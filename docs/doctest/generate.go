package doctest

// docs/reference.md: flags are package cli's, metrics package server's.
//go:generate go test limpet/cli limpet/server -run TestReference -rewrite
