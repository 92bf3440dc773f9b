//go:build linux

package install

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"limpet/e2e/hosts"
)

// The versions that a Mirror has; their code is the same.
const (
	older = "v1.0.0"
	newer = "v1.1.0"
)

// repository is where releases are built, seen from the folder in which tests of this package run.
const repository = "../.."

const buildDeadline = 15 * time.Minute

// released is built once for each test process, into a folder that TestMain removes.
var released struct {
	once   sync.Once
	folder string
	err    error
}

// releases is a folder with both versions, as make release makes it.
func releases(t testing.TB) string {
	t.Helper()
	released.once.Do(func() {
		if released.folder, released.err = os.MkdirTemp("", "limpet-releases-*"); released.err != nil {
			return
		}
		for _, version := range []string{older, newer} {
			ctx, cancel := context.WithTimeout(context.Background(), buildDeadline)
			defer cancel()
			cmd := exec.CommandContext(ctx, "make", "-s", "release", "VERSION="+version, "ARCH="+runtime.GOARCH, "DIST="+released.folder)
			cmd.Dir = repository
			if out, err := cmd.CombinedOutput(); err != nil {
				released.err = fmt.Errorf("%s: %w\n%s", cmd, err, lastLines(string(out), 20))
				return
			}
		}
	})
	if released.err != nil {
		t.Fatal(released.err)
	}
	return released.folder
}

// binary is where a version's program is, seen from the test.
func binary(t testing.TB, version string) string {
	t.Helper()
	return filepath.Join(releases(t), version, "limpet-linux-"+runtime.GOARCH)
}

// harm is what a Mirror does to a file.
type harm int

// Both kinds of harm leave the file's name and length.
const (
	cutOff  harm = iota + 1 // the connection ends in the middle
	altered                 // one byte is another
)

// Mirror serves releases to machines, from the hub of their net. Its methods may be called concurrently.
type Mirror struct {
	URL string

	files   http.Handler
	folder  string
	mu      sync.Mutex // guards the fields below
	channel string     // the version that stable names
	harmed  map[string]harm
	asked   map[string]int // by path
}

// mirror starts a Mirror that ends with the test; its channel names the older version.
func mirror(t testing.TB, n *hosts.Net) *Mirror {
	t.Helper()
	folder := releases(t)
	l := n.Listen()
	m := &Mirror{
		URL: "http://" + l.Addr().String(), files: http.FileServer(http.Dir(folder)), folder: folder,
		channel: older, harmed: map[string]harm{}, asked: map[string]int{},
	}
	server := &http.Server{Handler: m}
	ended := make(chan struct{})
	// Owner: the test; ends when its cleanup closes the server.
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the mirror ended: %v", err)
		}
	}()
	t.Cleanup(func() { server.Close(); <-ended })
	return m
}

// Offer has the channel stable name version.
func (m *Mirror) Offer(version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.channel = version
}

// Harm spoils every answer with the file at path; 0 ends that.
func (m *Mirror) Harm(path string, how harm) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.harmed[path] = how
}

// Asked tells how often the file at path was asked for.
func (m *Mirror) Asked(path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked[path]
}

// program is the path of a version's program.
func program(version string) string { return "/" + version + "/limpet-linux-" + runtime.GOARCH }

func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.asked[r.URL.Path]++
	how, channel := m.harmed[r.URL.Path], m.channel
	m.mu.Unlock()
	switch {
	case r.URL.Path == "/channels/stable":
		fmt.Fprintln(w, channel)
	case how != 0:
		m.serveHarmed(w, r.URL.Path, how)
	default:
		m.files.ServeHTTP(w, r)
	}
}

func (m *Mirror) serveHarmed(w http.ResponseWriter, path string, how harm) {
	content, err := os.ReadFile(filepath.Join(m.folder, path))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	if how == cutOff {
		w.Write(content[:len(content)/2])
		panic(http.ErrAbortHandler) // ends the connection
	}
	content[len(content)/2] ^= 1
	w.Write(content)
}

// Install starts what people type on a new machine.
func (m *Machine) Install(from *Mirror, flags string, env ...string) *Order {
	m.t.Helper()
	return m.Start("install.sh", strings.TrimSpace("curl -sfL "+from.URL+"/install.sh | sh -s - "+flags),
		append([]string{"INSTALL_LIMPET_MIRROR=" + from.URL}, env...)...)
}
