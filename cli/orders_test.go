package cli

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/urfave/cli/v2"

	"limpet/server"
)

// variableOf is etcd's variable of a flag.
func variableOf(flag string) string {
	return "ETCD_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// someText is a value that a flag takes; it may be its default.
func someText(f cli.Flag) string {
	if s, ok := f.(*cli.StringFlag); ok && s.Value == "" {
		return map[string]string{"feature-gates": "InitialCorruptCheck=true"}[s.Name]
	}
	return defaultText(f)
}

// A flag without effect is taken in each of the three ways, changes nothing, and
// is told of once.
func TestIdleFlagsAreToldOfOnce(t *testing.T) {
	want := server.DefaultConfig()
	rows := 0
	for _, s := range settings() {
		if s.idle == "" {
			continue
		}
		rows++
		text := someText(s.flag)
		if text == "" {
			text = "x"
		}
		note := "this flag has no effect in limpet: " + s.idle + " flag --" + s.name
		for way, args := range map[string][]string{
			"flag": {"--" + s.name + "=" + text},
			"file": {"--config-file", writeFile(t, "f", fmt.Sprintf("%q: %q\n", s.name, text))},
			"env":  nil,
		} {
			t.Run(way+" "+s.name, func(t *testing.T) {
				cleanEnv(t)
				if way == "env" {
					t.Setenv(variableOf(s.name), text)
				}
				cfg, notes, err := asked(t, args...)
				if err != nil || !slices.Equal(notes, []string{note}) || fmt.Sprint(cfg) != fmt.Sprint(want) {
					t.Errorf("%v: notes %q, want %q; configuration %+v", err, notes, note, cfg)
				}
			})
		}
	}
	if rows < 60 {
		t.Errorf("%d flags without effect, want etcd's", rows)
	}
}

// What etcd ignores may stand alone, and takes nothing that comes behind it.
func TestIgnoredFlagsStandAlone(t *testing.T) {
	cleanEnv(t)
	for _, args := range [][]string{{"-v", "--name", "m"}, {"--force", "--name=m"}, {"-snapshot", "-vv", "-name", "m"}, {"--snapshot=1", "--name", "m"}} {
		if cfg, _, err := asked(t, args...); err != nil || cfg.Name != "m" {
			t.Errorf("%q: name %q, %v; want m", args, cfg.Name, err)
		}
	}
}

// An older name sets the flag that took its place, which wins if both are given.
func TestOlderNames(t *testing.T) {
	for _, c := range []struct {
		args string
		get  func(server.Config) any
		want any
	}{
		{"--ca-file=/a", func(c server.Config) any { return c.ClientTLS.TrustedCA }, "/a"},
		{"--peer-ca-file=/a", func(c server.Config) any { return c.PeerTLS.TrustedCA }, "/a"},
		{"--ca-file=/a --trusted-ca-file=/b", func(c server.Config) any { return c.ClientTLS.TrustedCA }, "/b"},
		{"--experimental-watch-progress-notify-interval=5s", func(c server.Config) any { return c.ProgressEvery }, 5 * time.Second},
		{"--experimental-max-learners=3", func(c server.Config) any { return c.MaxLearners }, 3},
		{"--experimental-peer-skip-client-san-verification", func(c server.Config) any { return c.PeerTLS.SkipCallerSAN }, true},
	} {
		cleanEnv(t)
		cfg, notes, err := asked(t, strings.Fields(c.args)...)
		if got := c.get(cfg); err != nil || got != c.want || len(notes) != 1 || !strings.HasPrefix(notes[0], "this is an older name of a flag; both mean the same flag --") {
			t.Errorf("%s: got %v, %v, notes %q, want %v and one note", c.args, got, err, notes, c.want)
		}
	}
	// k3s writes this one in nanoseconds.
	cfg := mustAsk(t, "--config-file", writeFile(t, "f", "experimental-watch-progress-notify-interval: 5000000000\n"))
	if cfg.ProgressEvery != 5*time.Second {
		t.Errorf("from k3s's file: got %v, want 5s", cfg.ProgressEvery)
	}
}

// --debug and --log-output end in the logger.
func TestOlderNamesOfTheLog(t *testing.T) {
	cleanEnv(t)
	for args, want := range map[string]string{
		"--debug": "debug default", "--debug=false": "info default", "--debug --log-level=warn": "warn default", "--log-output=/a,stderr": "info /a,stderr",
	} {
		app, got := newApp("v1", nil), ""
		app.Commands[0].Action = func(c *cli.Context) error {
			_, err := takeOrders(c, settings())
			got = c.String("log-level") + " " + c.String("log-outputs")
			return err
		}
		if err := app.Run(append([]string{"limpet", "server"}, strings.Fields(args)...)); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", args, got, err, want)
		}
	}
}

// etcd ends where a variable and its flag are both given; limpet takes the flag,
// and says so in etcd's words.
func TestShadowedVariable(t *testing.T) {
	cleanEnv(t)
	t.Setenv("ETCD_NAME", "a")
	cfg, notes, err := asked(t, "--name=b")
	want := "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag) variable ETCD_NAME"
	if err != nil || cfg.Name != "b" || !slices.Equal(notes, []string{want}) {
		t.Errorf("got %q, %v, notes %q, want b and %q", cfg.Name, err, notes, want)
	}
}

// Beside a file, variables are not even looked at.
func TestVariablesBesideAFile(t *testing.T) {
	cleanEnv(t)
	t.Setenv("ETCD_MAX_TXN_OPS", "many")
	t.Setenv("ETCD_NOSUCH", "x")
	cfg, notes, err := asked(t, "--config-file", writeFile(t, "f", "name: a\nsocket-options: {reuse-port: true}\ndiscovery-config: {token: t, endpoints: [a, b]}\nnosuch: 1\n"))
	if err != nil || cfg.Name != "a" || !cfg.ReusePort || cfg.DiscoveryToken != "t" || len(cfg.DiscoveryEndpoints) != 2 {
		t.Errorf("got %+v, %v", cfg, err)
	}
	if want := "unknown key in the configuration file; it has no effect key nosuch"; !slices.Equal(notes, []string{want}) {
		t.Errorf("notes: got %q, want %q", notes, want)
	}
}

// As in etcd, whoever says where to listen says where clients find it.
func TestAdvertiseIsForgotten(t *testing.T) {
	cleanEnv(t)
	if got := mustAsk(t, "--listen-client-urls=http://127.0.0.1:1").AdvertiseClientURLs; got != nil {
		t.Errorf("with --listen-client-urls alone: got %v, want none", got)
	}
	def := server.DefaultConfig().AdvertiseClientURLs
	if got := mustAsk(t, "--config-file", writeFile(t, "f", "listen-client-urls: http://127.0.0.1:1\n")).AdvertiseClientURLs; !slices.Equal(got, def) {
		t.Errorf("in a file: got %v, want etcd's default, %v", got, def)
	}
}

// The help as text; go test ./cli -rewrite writes it anew.
func TestServerHelp(t *testing.T) {
	datadriven.RunTest(t, "testdata/server-help.txt", func(t *testing.T, d *datadriven.TestData) string {
		out, err := limpet("server", "--"+d.Cmd)
		if err != nil {
			t.Fatal(err)
		}
		return out
	})
}

// Every flag has a group that the help shows.
func TestHelpGroups(t *testing.T) {
	for _, f := range serverFlags(settings()) {
		if c := f.(cli.CategorizableFlag).GetCategory(); !slices.Contains(categories, c) {
			t.Errorf("--%s is in group %q, which the help does not show", f.Names()[0], c)
		}
	}
}
