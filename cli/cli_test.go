package cli

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"limpet/api"
	"limpet/server"
	"limpet/server/servertest"
)

func TestCommandLine(t *testing.T) {
	cleanEnv(t)
	for _, c := range []struct {
		args string
		want string // the sentence, or its beginning if it ends in …
	}{
		{"nosuch", `there is no command "nosuch"; see limpet --help`},
		{"nosuch --flag", `there is no command "nosuch"; see limpet --help`},
		{"--nosuch", "there is no flag --nosuch; see limpet --help"},
		{"version --nosuch", "there is no flag --nosuch; see limpet version --help"},
		{"status --nosuch", "there is no flag --nosuch; see limpet status --help"},
		{"status --output=xml", `--output is "xml", want text or json`},
		{"status --timeout=5", `invalid value "5" for flag -timeout: …`},
	} {
		t.Run(c.args, func(t *testing.T) {
			out, err := limpet(strings.Fields(c.args)...)
			wantError(t, err, c.want)
			if out != "" {
				t.Errorf("beside the sentence: got %q, want nothing", out)
			}
		})
	}
}

func TestRunSaysByItsCode(t *testing.T) {
	cleanEnv(t)
	if code := Run([]string{"limpet", "version"}, "v1"); code != 0 {
		t.Errorf("limpet version: exit code %d, want 0", code)
	}
	// A command line that cannot be read is 2, as with etcd; the rest is 1.
	for args, want := range map[string]int{
		"limpet server --nosuch": 2, "etcd --nosuch": 2, "limpet server --max-wals=-1": 2, "limpet server foo": 1, "etcd foo": 1, "etcd --version": 0, "etcd --help": 0,
	} {
		if code := Run(strings.Fields(strings.Clone(args)), "v1"); code != want {
			t.Errorf("%s: exit code %d, want %d", args, code, want)
		}
	}
	if code := Run([]string{"limpet", "nosuch"}, "v1"); code != 1 {
		t.Errorf("limpet nosuch: exit code %d, want 1", code)
	}
}

// The help names every command, and that of the server every flag.
func TestHelp(t *testing.T) {
	cleanEnv(t)
	for _, args := range [][]string{nil, {"--help"}} {
		out, err := limpet(args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"server", "status", "etcdctl", "version"} {
			if !strings.Contains(out, name) {
				t.Errorf("limpet %v: no word of %s in\n%s", args, name, out)
			}
		}
	}
	out, err := limpet("server", "--help")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range serverFlags(settings()) {
		if !strings.Contains(out, "--"+f.Names()[0]) {
			t.Errorf("limpet server --help: no word of --%s", f.Names()[0])
		}
	}
}

// A real member and an address where nobody listens.
func TestStatus(t *testing.T) {
	cleanEnv(t)
	here, nobody := servertest.FreeAddr(t), servertest.FreeAddr(t)
	cfg := server.DefaultConfig()
	cfg.Name = "board"
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.ListenClientURLs = []string{"http://" + here}
	cfg.ListenPeerURLs = []string{"http://" + servertest.FreeAddr(t)}
	cfg.AdvertisePeerURLs = cfg.ListenPeerURLs
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()

	out, err := limpet("status", "--endpoints", here)
	if err != nil || !strings.Contains(out, "board") || !strings.Contains(out, "leader") || strings.Count(out, "\n") != 6 {
		t.Errorf("limpet status: %v, got\n%s", err, out)
	}
	// The variable names the members as the flag does.
	t.Setenv("ETCDCTL_ENDPOINTS", "http://"+here+","+nobody)
	out, err = limpet("status", "-o", "json", "--timeout=500ms")
	if err == nil || err.Error() != "1 of 2 members did not answer" {
		t.Errorf("limpet status with one of two there: got %v", err)
	}
	var all clusterStatus
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	rows := all.Endpoints
	if c := all.Cluster; c == nil || len(c.Members) != 1 || c.Members[0].Role != "leader" || !c.Members[0].Answers {
		t.Errorf("the cluster: got %+v, want the one member, leading", c)
	}
	if len(rows) != 2 || rows[0].Name != "board" || rows[0].Role != "leader" || rows[0].Revision != 1 || rows[0].Version != api.Version || rows[0].Quota != 2<<30 {
		t.Errorf("the member that is there: got %+v", rows)
	}
	if len(rows) == 2 && (rows[1].Endpoint != nobody || rows[1].Error == "" || rows[1].ID != "") {
		t.Errorf("the member that is not there: got %+v, want an error alone", rows[1])
	}
}
