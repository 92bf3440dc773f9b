package v2

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"limpet/auth"
	"limpet/login"
	"limpet/raftfsm"
	"limpet/txn"
)

const noCredentials = "Insufficient credentials"

// root returns who sends r if that is root, or nothing is checked; else it answers
// r. etcd does not tell a wrong password from a user who may not.
func (f *Face) root(w http.ResponseWriter, r *http.Request) (auth.Caller, bool) {
	c, err := f.cfg.Caller(r)
	if err == nil {
		err = f.cfg.Node.Rules().Admin(c)
	}
	switch {
	case err == nil:
		return c, true
	case errors.Is(err, login.ErrTooMany):
		writeMessage(w, http.StatusTooManyRequests, "too many logins from this address have failed: try again in a minute")
	default:
		writeMessage(w, http.StatusUnauthorized, noCredentials)
	}
	return c, false
}

// propose has cmd agreed on as the caller's.
func (f *Face) propose(r *http.Request, c auth.Caller, cmd txn.Command) (any, error) {
	ctx, cancel := f.patience(r)
	defer cancel()
	if c != (auth.Caller{}) {
		cmd = &txn.As{Caller: c, Command: cmd}
	}
	return f.cfg.Node.Propose(ctx, cmd)
}

// body is that of r, within maxBody, if it comes in time.
func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	// Where there are no deadlines, there is no network.
	_ = control.SetReadDeadline(time.Now().Add(bodyPatience))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
}

// fail answers r with etcd's words for all that is not the client's fault; the
// reason is for the operator.
func (f *Face) fail(w http.ResponseWriter, r *http.Request, err error) {
	f.cfg.Logger.Warn("a request of etcd's v2 API failed", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "error", err)
	text := "Internal Server Error"
	if errors.Is(err, raftfsm.ErrOldMember) {
		text = strings.TrimPrefix(err.Error(), "raftfsm: ") // root can mend that
	}
	writeMessage(w, http.StatusInternalServerError, text)
}
