package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/cluster"
)

// adminName is a socket in the data directory for what the operator of this
// machine asks, mode 0600: whoever may read the token may replace it, whatever
// users and roles say.
const adminName = "admin.sock"

const (
	rotatePath = "/token/rotate"
	finishPath = "/token/finish"
	leavePath  = "/member/leave"
	reportPath = "/cluster"
)

// ErrOnlyMember: a member that is the whole cluster cannot leave it.
var ErrOnlyMember = errors.New("this member is the only one: nobody would keep the data; to end it, stop it and remove its data directory")

// openAdmin listens on the socket. A file system without sockets costs nothing
// but what is asked there.
func (s *Server) openAdmin() {
	l, err := listenAdmin(s.dir.path)
	if err != nil {
		s.log.Warn("limpet token rotate, and limpet member leave with a data directory, cannot reach this member", "error", err)
		return
	}
	rotate, finish := s.local.RotateToken, s.local.FinishRotation
	if s.vault == nil {
		noToken := func(context.Context) error {
			return errors.New("this member has no token, which could be replaced")
		}
		rotate, finish = noToken, noToken
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+reportPath, s.adminReport)
	mux.HandleFunc("POST "+rotatePath, s.adminDoes(rotate))
	mux.HandleFunc("POST "+finishPath, s.adminDoes(finish))
	mux.HandleFunc("POST "+leavePath, s.adminDoes(s.leave))
	mux.HandleFunc("POST "+flushPath, s.adminFlush)
	s.serveHTTP(l, mux)
}

// listenAdmin takes the place of a socket that a crash has left: the caller
// holds the directory's lock.
func listenAdmin(dir string) (net.Listener, error) {
	file := filepath.Join(dir, adminName)
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	at, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.Listen("unix", at)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // at may lead nowhere by then
	return adminListener{l, file}, os.Chmod(file, 0o600)
}

// adminListener removes its socket.
type adminListener struct {
	net.Listener
	file string
}

// Close implements net.Listener.
func (l adminListener) Close() error {
	_ = os.Remove(l.file) // a later start removes it as well
	return l.Listener.Close()
}

// socketPath is where the socket can be reached, also if its path is longer than
// an address: the kernel then finds the directory by the open file.
func socketPath(dir string) (path string, done func(), err error) {
	path = filepath.Join(dir, adminName)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), adminName), func() { _ = d.Close() }, nil
}

func (s *Server) adminReport(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.local.Report(r.Context())) // the other side has gone
}

func (s *Server) adminDoes(do func(context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch err := do(r.Context()); {
		case errors.Is(err, ErrOnlyMember):
			http.Error(w, err.Error(), http.StatusPreconditionFailed)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		s.adminReport(w, r)
	}
}

// leave takes this member out of its cluster for good; it ends then.
func (s *Server) leave(ctx context.Context) error {
	select {
	case <-s.built: // s.api is there
	default:
		return errors.New("this member is not in a cluster yet")
	}
	if len(s.node.Membership().Members) == 1 {
		return ErrOnlyMember
	}
	_, err := s.api.RemoveMember(ctx, &pb.MemberRemoveRequest{ID: s.dir.now().member()})
	return err
}

// Admin reaches the member that runs with a data directory on this machine.
type Admin struct{ dir string }

// AdminOf is for the member that runs with dir.
func AdminOf(dir string) *Admin { return &Admin{dir} }

// RotateToken has the member begin to replace the cluster's token.
func (a *Admin) RotateToken(ctx context.Context) (*cluster.Report, error) {
	return a.ask(ctx, http.MethodPost, rotatePath)
}

// FinishRotation has the cluster trust the old token no more.
func (a *Admin) FinishRotation(ctx context.Context) (*cluster.Report, error) {
	return a.ask(ctx, http.MethodPost, finishPath)
}

// Leave takes the member out of its cluster for good. It answers ErrOnlyMember if
// the member is all there is.
func (a *Admin) Leave(ctx context.Context) error {
	_, err := a.ask(ctx, http.MethodPost, leavePath)
	if err == nil || errors.Is(err, ErrOnlyMember) {
		return err
	}
	if id, idErr := readIdentity(a.dir); idErr == nil && id.Removed {
		return nil // it has ended before it could answer
	}
	return err
}

// Report is how the cluster is.
func (a *Admin) Report(ctx context.Context) (*cluster.Report, error) {
	return a.ask(ctx, http.MethodGet, reportPath)
}

// adminPatience bounds one question; a proposal may wait for an election.
const adminPatience = 30 * time.Second

func (a *Admin) ask(ctx context.Context, method, path string) (*cluster.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: a.dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, method, "http://member"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no member that runs with %s answers (%w): name the data directory of one with --data-dir, as the user that limpet runs as, or as root", a.dir, errors.Unwrap(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusPreconditionFailed {
		return nil, ErrOnlyMember
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(string(bytes.TrimSpace(body)))
	}
	r := new(cluster.Report)
	return r, json.Unmarshal(body, r)
}

func (a *Admin) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	at, done, err := socketPath(a.dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", at)
}
