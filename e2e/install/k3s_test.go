//go:build linux

package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestK3s: what k3s itself asks of its datastore, by the package that it uses for that, against three
// members as they are installed.
func TestK3s(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "k3s")
	ctx, cancel := context.WithTimeout(t.Context(), buildDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	cmd.Dir, cmd.Env = filepath.Join(repository, "e2e/k3s"), append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, all, _ := three(t)
	m := all[1]
	m.Write("/root/k3s", string(program), 0o755)
	var endpoints []string
	for _, o := range all {
		endpoints = append(endpoints, "http://"+o.Addr(clientPort))
	}
	key, _, _ := strings.Cut(m.Start("k3s", "/root/k3s "+strings.Join(endpoints, ",")+" secret").Succeeds(), " ")
	if !strings.HasPrefix(key, "/bootstrap/") {
		t.Fatalf("k3s saved its data as %q, want a key below /bootstrap/", key)
	}
	// A server that starts while a board is off finds them, too.
	all[0].Poweroff()
	m.Eventually("bootstrap data with a board that is off", func() error {
		got := m.Run("etcdctl get --print-value-only " + key + " | wc -c")
		if strings.TrimSpace(got.Stdout) != "22001" {
			return fmt.Errorf("got %s bytes, want 22001: %s", got.Stdout, got.Stderr)
		}
		return nil
	})
}
