//go:build linux

package guide

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"limpet/e2e/hosts"
)

// patience is for one command, with all its repetitions; pause is between these.
const (
	patience = time.Minute
	pause    = 300 * time.Millisecond
)

//go:embed machine.sh
var setup string

// machine is a shell on a host that sees files of its own.
type machine struct {
	t     *testing.T
	name  string
	dir   string // here, what is /run/guide there
	stdin io.Writer
	ends  *bufio.Reader // exit codes, a line each
	steps int
	files []*os.File
}

// newMachine starts the shell. others are lines for /etc/hosts.
func newMachine(t *testing.T, h *hosts.Host, name, limpet, others string) *machine {
	t.Helper()
	m := &machine{t: t, name: name, dir: t.TempDir()}
	codes, codesIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "bash", "-c", setup, "setup", limpet, m.dir, name, others)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.ExtraFiles = []*os.File{codesIn}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(m.dir, "shell.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	_ = codesIn.Close()
	m.stdin, m.ends, m.files = stdin, bufio.NewReader(codes), []*os.File{codes, log}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and with it everything there: --kill-child, --pid
		_ = cmd.Wait()
		for _, f := range m.files {
			_ = f.Close()
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s: %s", name, text)
			logs, _ := filepath.Glob(filepath.Join(m.dir, "*.log"))
			for _, l := range logs {
				text, _ := os.ReadFile(l)
				t.Logf("%s: end of %s\n%s", name, filepath.Base(l), text[max(0, len(text)-1500):])
			}
		}
	})
	return m
}

// run has the shell run a command, and returns what it printed and its exit code.
func (m *machine) run(command string, deadline time.Time) (out string, code int) {
	m.t.Helper()
	m.steps++
	file := fmt.Sprintf("%d.out", m.steps)
	if _, err := fmt.Fprintf(m.stdin, "{ %s\n} </dev/null >/run/guide/%s 2>&1 3>&-\necho $? >&3\n", command, file); err != nil {
		m.t.Fatalf("%s: the shell has ended: %v", m.name, err)
	}
	if err := m.files[0].SetReadDeadline(deadline); err != nil {
		m.t.Fatal(err)
	}
	line, err := m.ends.ReadString('\n')
	text, _ := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil {
		m.t.Fatalf("%s: %s\ndid not end: %v\n%s", m.name, command, err, text)
	}
	if _, err := fmt.Sscan(line, &code); err != nil {
		m.t.Fatalf("%s: %s\nended with %q", m.name, command, line)
	}
	return string(text), code
}

// do runs a step, again and again if it says so, and fails the test where it does not
// do what it should.
func (m *machine) do(where string, s Step) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		out, code := m.run(s.Command, deadline.Add(patience)) // one look may begin just before the end
		wrong := s.Judge(out, code)
		if wrong == "" {
			return
		}
		if len(s.Waits) == 0 || time.Now().Add(pause).After(deadline) {
			m.t.Fatalf("%s:%d, on %s:\n$ %s\n%s\n%s", where, s.Line, m.name, s.Command, strings.TrimSpace(out), wrong)
		}
		time.Sleep(pause) // between looks
	}
}

// Judge says what is wrong with how a step went; empty: nothing.
func (s Step) Judge(out string, code int) string {
	if s.Fails != (code != 0) {
		return fmt.Sprintf("ended with %d, want that it fails: %v", code, s.Fails)
	}
	for _, text := range append(append([]string{}, s.Prints...), s.Waits...) {
		if !printed(out, text) {
			return fmt.Sprintf("printed nothing like %q", text)
		}
	}
	return ""
}
