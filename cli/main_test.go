package cli

import (
	"bytes"
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
// makes of a command line, a file and the environment. It is not validated.
func asked(t *testing.T, args ...string) (cfg server.Config, err error) {
	t.Helper()
	app := newApp("v1", new(bytes.Buffer))
	for _, c := range app.Commands {
		if c.Name != "server" {
			continue
		}
		c.Action = func(c *cli.Context) error {
			if file := c.String("config-file"); file != "" {
				if _, err := applyConfigFile(c, file); err != nil {
					return err
				}
			}
			cfg = server.DefaultConfig()
			for _, s := range settings() {
				if err := s.apply(c, &cfg); err != nil {
					return err
				}
			}
			return nil
		}
	}
	err = app.Run(append([]string{"limpet", "server"}, args...))
	return cfg, err
}

func mustAsk(t *testing.T, args ...string) server.Config {
	t.Helper()
	cfg, err := asked(t, args...)
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
