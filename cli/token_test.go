package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const aToken = "000102030405060708090a0b0c0d0e0f"

func TestTokenShow(t *testing.T) {
	cleanEnv(t)
	file := writeFile(t, "token", aToken+"\n")
	dir := filepath.Dir(file)
	if out, err := limpet("token", "show", "--data-dir", dir); err != nil || out != aToken+"\n" {
		t.Errorf("got %q, %v", out, err)
	}
	t.Setenv("LIMPET_DATA_DIR", dir)
	if out, err := limpet("token", "show"); err != nil || out != aToken+"\n" {
		t.Errorf("by the variable: got %q, %v", out, err)
	}
	_, err := limpet("token", "show", "--data-dir", t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "there is no token in ") {
		t.Errorf("no token: %v", err)
	}
}

// A token on the command line goes on to the command, and nobody else sees it.
func TestHideSecrets(t *testing.T) {
	for _, line := range []string{
		"limpet server --token " + aToken + " --name a",
		"limpet server -token=" + aToken + " --name a",
		"limpet recover --token=" + aToken,
		"limpet server --token",
		"limpet server --token=",
		"limpet token generate",
		"limpet server --token-file x --initial-cluster-token y",
		"limpet server --token-file " + aToken,
		"limpet server --token-file=" + aToken,
		"limpet server " + aToken,
	} {
		var args []string
		for _, w := range strings.Fields(line) {
			args = append(args, strings.Clone(w)) // constants cannot be overwritten
		}
		got := hideSecrets(args, slices.Contains(args, "server"))
		if !slices.Equal(got, strings.Fields(line)) {
			t.Errorf("%q goes on as %q", line, got)
		}
		if left := strings.Join(args, " "); strings.Contains(left, aToken) || len(left) != len(line) {
			t.Errorf("%q: the process list shows %q", line, left)
		}
		if !strings.Contains(line, aToken) && strings.Join(args, " ") != line {
			t.Errorf("%q: without a token, it was changed to %q", line, args)
		}
	}
}

func TestHidePasswords(t *testing.T) {
	for line, want := range map[string]string{
		"limpet status --user root:secret": "limpet status --user root:xxxxxx", "limpet etcdctl --user=root:secret get a": "limpet etcdctl --user=root:xxxxxx get a",
		"etcd --discovery-user root:secret": "etcd --discovery-user root:xxxxxx", "limpet server --discovery-password=secret": "limpet server --discovery-password=xxxxxx",
		"limpet member list --user root": "limpet member list --user root", "limpet status --endpoints a:1": "limpet status --endpoints a:1",
	} {
		var args []string
		for _, w := range strings.Fields(line) {
			args = append(args, strings.Clone(w))
		}
		if got := hideSecrets(args, slices.Contains(args, "server")); !slices.Equal(got, strings.Fields(line)) {
			t.Errorf("%q goes on as %q", line, got)
		}
		if got := strings.Join(args, " "); got != want {
			t.Errorf("%q: the process list shows %q, want %q", line, got, want)
		}
	}
}

func TestShowToken(t *testing.T) {
	var b bytes.Buffer
	writeToken(&b, "/d/", aToken)
	if s := b.String(); strings.Count(s, aToken) != 1 || !strings.Contains(s, "limpet token show --data-dir /d/") || !strings.Contains(s, " /d/token.") {
		t.Errorf("got %q", s)
	}
}

// The journal is a log: it says where the token is, not the token.
func TestTokenIsNotInTheJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	t.Setenv("JOURNAL_STREAM", streamName(f))
	showToken(f, "/d", aToken)
	data, err := os.ReadFile(f.Name())
	if err != nil || bytes.Contains(data, []byte(aToken)) || !bytes.Contains(data, []byte("limpet token show")) {
		t.Errorf("the journal got %q, %v", data, err)
	}
	t.Setenv("JOURNAL_STREAM", "1:1")
	showToken(f, "/d", aToken)
	if data, _ := os.ReadFile(f.Name()); !bytes.Contains(data, []byte(aToken)) {
		t.Errorf("elsewhere the token is not shown: %q", data)
	}
}
