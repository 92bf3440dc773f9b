//go:build linux

package install

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if released.folder != "" {
			os.RemoveAll(released.folder)
		}
		os.Exit(code)
	}))
}
