package proc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	readyLine     = "ready to serve client requests"
	readyDeadline = 60 * time.Second
	tailLines     = 12
)

// Server is one member: one data directory, two addresses, and at most one process.
type Server struct {
	Kind    Kind
	Name    string
	DataDir string
	Client  string // host:port
	Web     string // host:port for clients' HTTP; empty: Client's
	Peer    string // host:port
	Initial string // --initial-cluster; empty for a cluster of this member alone
	Log     *Log

	t       testing.TB
	bare    bool // extra is the whole command line
	extra   []string
	env     []string
	process *Process
}

// Option changes a Server before its first start.
type Option func(*Server)

// Flags adds flags behind the usual ones, on every start.
func Flags(flags ...string) Option { return func(s *Server) { s.extra = append(s.extra, flags...) } }

// OwnWeb gives clients' HTTP a port of its own.
func OwnWeb(s *Server) {
	s.Web = FreeAddr(s.t)
	s.extra = append(s.extra, "--listen-client-http-urls="+s.WebURL())
}

// Env adds variables NAME=value to the child's otherwise inherited environment.
func Env(vars ...string) Option { return func(s *Server) { s.env = append(s.env, vars...) } }

// Bare starts the server with these flags and variables alone, without the usual ones.
func Bare(flags, vars []string) Option {
	return func(s *Server) { s.bare, s.extra, s.env = true, flags, vars }
}

// New prepares a server of kind with a fresh data directory and fresh ports, not yet started.
// It ends with the test; if the test failed, the end of its log is printed.
func New(t testing.TB, kind Kind, options ...Option) *Server {
	t.Helper()
	s := &Server{
		Kind:    kind,
		Name:    "m1",
		DataDir: filepath.Join(t.TempDir(), "data"),
		Client:  FreeAddr(t),
		Peer:    FreeAddr(t),
		t:       t,
	}
	for _, o := range options {
		o(s)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.keep()
		}
	})
	s.process = NewProcess(t, fmt.Sprintf("%s at %s", kind, s.Client), Binary(t, kind))
	s.Log = s.process.Log
	return s
}

// keep saves the data of a failed test's server below the folder that E2E_KEEP names.
func (s *Server) keep() {
	folder := os.Getenv("E2E_KEEP")
	if folder == "" {
		return
	}
	folder = filepath.Join(folder, strings.ReplaceAll(s.t.Name(), "/", "_"), string(s.Kind)+"-"+filepath.Base(filepath.Dir(s.DataDir)))
	if err := CopyDir(folder, s.DataDir); err != nil {
		s.t.Logf("keep %s: %v", s.DataDir, err)
		return
	}
	s.t.Logf("data kept in %s", folder)
}

// Start is New and Run: a server that answers.
func Start(t testing.TB, kind Kind, options ...Option) *Server {
	t.Helper()
	s := New(t, kind, options...)
	s.Run()
	return s
}

// ClientURL is where clients find the server.
func (s *Server) ClientURL() string { return "http://" + s.Client }

// WebURL is where clients find the server over HTTP.
func (s *Server) WebURL() string { return "http://" + cmp.Or(s.Web, s.Client) }

// PeerURL is where other members would find it.
func (s *Server) PeerURL() string { return "http://" + s.Peer }

// Flags gives the command line the server is started with, sub-command included.
func (s *Server) Flags() []string {
	flags := s.usual()
	if s.bare {
		flags = nil
	}
	if s.Kind == Limpet {
		flags = append([]string{"server"}, flags...)
	}
	return append(flags, s.extra...)
}

func (s *Server) usual() []string {
	return []string{
		"--name=" + s.Name,
		"--data-dir=" + s.DataDir,
		"--listen-client-urls=" + s.ClientURL(),
		"--advertise-client-urls=" + s.ClientURL(),
		"--listen-peer-urls=" + s.PeerURL(),
		"--initial-advertise-peer-urls=" + s.PeerURL(),
		"--initial-cluster=" + cmp.Or(s.Initial, s.Name+"="+s.PeerURL()),
	}
}

// Run starts the process and returns once it serves; the test fails if it does not.
func (s *Server) Run() {
	s.t.Helper()
	s.Launch()
	if err := s.Ready(); err != nil {
		s.t.Fatalf("%s at %s is not ready: %v", s.Kind, s.Client, err)
	}
}

// Ready waits until the launched process serves, or tells why it does not.
func (s *Server) Ready() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), readyDeadline, errors.New("deadline for readiness"))
	defer cancel()
	return s.waitReady(ctx)
}

// Launch starts the process and does not wait for it to serve.
func (s *Server) Launch() {
	s.t.Helper()
	s.process.Env = s.env
	s.process.Launch(s.Flags()...)
}

// waitReady waits for the log line and then for a probe's answer, or for the process to end.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := s.process.Ended()
	// Ends with ctx at the latest, which this function cancels on its way out.
	go func() {
		select {
		case <-ended:
			cancel(errors.New("the process ended"))
		case <-ctx.Done():
		}
	}()
	if err := s.Log.Wait(ctx, readyLine); err != nil {
		return err
	}
	return Eventually(ctx, 20*time.Millisecond, func() error { return s.probe(ctx) })
}

func (s *Server) probe(ctx context.Context) error {
	path := "/readyz"
	if s.Kind == Etcd35 { // with --enable-v2 it has no /readyz
		path = "/health"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.WebURL()+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	// 503 is an answer too: a restart under a CORRUPT alarm is never "ready" in that sense; and so is
	// 421, of a server that does not want to be called by its address.
	case http.StatusOK, http.StatusServiceUnavailable, http.StatusMisdirectedRequest:
	default:
		return fmt.Errorf("%s answered %s", path, resp.Status)
	}
	return nil
}

// Alive tells whether the process runs.
func (s *Server) Alive() bool { return s.process.Alive() }

// PID is the process's id.
func (s *Server) PID() int { return s.process.PID() }

// Kill ends the process with SIGKILL and waits for its end.
func (s *Server) Kill() {
	s.t.Helper()
	s.process.Kill()
}

// Pause stops the process in the middle of whatever it does, until Continue.
func (s *Server) Pause() {
	s.t.Helper()
	s.process.Pause()
}

// Continue ends a Pause.
func (s *Server) Continue() {
	s.t.Helper()
	s.process.Continue()
}

// Terminate sends SIGTERM and waits for the end, at most for deadline.
func (s *Server) Terminate(deadline time.Duration) Exit {
	s.t.Helper()
	return s.process.Terminate(deadline)
}

// WaitExit waits for the process to end by itself, at most until deadline after start.
func (s *Server) WaitExit(start time.Time, deadline time.Duration) Exit {
	s.t.Helper()
	return s.process.WaitExit(start, deadline)
}

// RSS is the process's resident memory in bytes.
func (s *Server) RSS() int64 {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		s.t.Fatalf("read memory of %s: %v", s.Kind, err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				s.t.Fatalf("read %q: %v", line, err)
			}
			return kib << 10
		}
	}
	s.t.Fatalf("no VmRSS in the status of %s", s.Kind)
	return 0
}

// Eventually calls check until it returns nil, pausing in between, and gives up when ctx ends;
// the last answer of check is then part of the error.
func Eventually(ctx context.Context, pause time.Duration, check func() error) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		}
	}
}
