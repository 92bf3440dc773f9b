// limpet is a small, replicated, etcd-compatible key-value store.
package main

import (
	"os"

	"limpet/cli"
)

// version is set by the linker in released binaries.
var version = "dev"

func main() { os.Exit(cli.Run(os.Args, version)) }
