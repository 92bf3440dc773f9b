// Command build builds the programs of package kube, where that is needed, and prints
// their paths as JSON, for tests of other modules.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"limpet/e2e/kube"
)

func main() {
	binaries, err := kube.BuildBinaries(context.Background())
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(binaries)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
