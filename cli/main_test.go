package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

// cleanEnv takes the variables away that limpet reads, for one test.
func cleanEnv(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "ETCD") || strings.HasPrefix(name, "LIMPET") {
			t.Setenv(name, "") // has it put back at the end
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// asked is what the operator asked for: the configuration that limpet server
// makes of a command line, a file and the environment, and what the log would say
// of that. It is not validated.
func asked(t *testing.T, args ...string) (cfg server.Config, notes []string, err error) {
	t.Helper()
	app := newApp("v1", new(bytes.Buffer))
	for _, c := range app.Commands {
		if c.Name != "server" {
			continue
		}
		c.Action = func(c *cli.Context) error {
			o, err := takeOrders(c, settings())
			if err != nil {
				return err
			}
			cfg = o.cfg
			for _, n := range o.notes {
				notes = append(notes, strings.TrimSpace(fmt.Sprintln(append([]any{n.text}, n.with...)...)))
			}
			return nil
		}
	}
	err = app.Run(append([]string{"limpet", "server"}, args...))
	return cfg, notes, err
}

func mustAsk(t *testing.T, args ...string) server.Config {
	t.Helper()
	cfg, _, err := asked(t, args...)
	if err != nil {
		t.Fatalf("limpet server %s: %v", strings.Join(args, " "), err)
	}
	return cfg
}

// limpet runs a command line and returns what it prints.
func limpet(args ...string) (out string, err error) {
	var b bytes.Buffer
	err = newApp("v1", &b).Run(append([]string{"limpet"}, args...))
	return b.String(), err
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
