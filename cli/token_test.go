package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
		"etcdctl --user root --password secret get a": "etcdctl --user root --password xxxxxx get a",
		"etcdctl user add bob:secret":                 "etcdctl user add bob:xxxxxx", "etcdctl user add --interactive=false bob:secret": "etcdctl user add --interactive=false bob:xxxxxx",
		"etcdctl user add bob --new-user-password=secret": "etcdctl user add bob --new-user-password=xxxxxx", "etcdctl put user add:b": "etcdctl put user add:b",
		"limpet etcdctl put a b:c":       "limpet etcdctl put a b:c",
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

// A journal, a pipe and a file are kept: they say where the token is, not the token.
func TestTokenIsNotInALog(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	showToken(f, "/d", aToken)
	data, err := os.ReadFile(f.Name())
	if err != nil || bytes.Contains(data, []byte(aToken)) || !bytes.Contains(data, []byte("limpet token show")) {
		t.Errorf("the log got %q, %v", data, err)
	}
	terminal, shown := openTerminal(t)
	showToken(terminal, "/d", aToken)
	buf := make([]byte, 4096)
	n, err := shown.Read(buf)
	if err != nil || !bytes.Contains(buf[:n], []byte(aToken)) {
		t.Errorf("the terminal shows %q, %v", buf[:n], err)
	}
}

// openTerminal makes a terminal, and the end at which somebody would sit.
func openTerminal(t *testing.T) (terminal, screen *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this system has no terminals to open: %v", err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this system has no terminals to open: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return terminal, screen
}
