package login

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/auth"
)

// secured returns rules under which root and ann have password "right".
func secured(t *testing.T, p *Passwords) *auth.Rules {
	t.Helper()
	hash, err := p.Hash(t.Context(), "h", "right")
	if err != nil {
		t.Fatal(err)
	}
	return rules(t,
		&pb.AuthUserAddRequest{Name: auth.Root, HashedPassword: hash}, &pb.AuthUserGrantRoleRequest{User: auth.Root, Role: auth.Root},
		&pb.AuthUserAddRequest{Name: "ann", HashedPassword: hash}, &pb.AuthUserAddRequest{Name: "cert", Options: &authpb.UserAddOptions{NoPassword: true}},
		&pb.AuthEnableRequest{})
}

// A password that was right needs no turn any more, and holds for the hash that
// it was right for.
func TestPasswordsShownOften(t *testing.T) {
	p := NewPasswords(MinCost)
	r := secured(t, p)
	check := func(ctx context.Context, r *auth.Rules, name, password string, want error) {
		t.Helper()
		rev, err := p.CheckOften(ctx, r, "h", name, password)
		if !errors.Is(err, want) || err == nil && rev != r.Revision() {
			t.Errorf("%s with %q: %d, %v; want %v", name, password, rev, err, want)
		}
	}
	for range 2 {
		check(t.Context(), r, "ann", "right", nil)
		check(t.Context(), r, "ann", "wrong", auth.ErrFailed)
		check(t.Context(), r, "ann", "", auth.ErrFailed)
		check(t.Context(), r, "none", "right", auth.ErrFailed)
		check(t.Context(), r, "cert", "", auth.ErrNoPasswordUser)
	}
	check(t.Context(), rules(t), "ann", "right", auth.ErrNotEnabled)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.turns.take(t.Context(), "other"); err != nil { // somebody else's turn
		t.Fatal(err)
	}
	check(ended, r, "ann", "right", nil)
	check(ended, r, "ann", "wrong", context.Canceled)
	check(ended, r, auth.Root, "right", context.Canceled) // has not shown it yet
	p.turns.give()

	change := func(r *auth.Rules, cmd any) *auth.Rules {
		t.Helper()
		r, err := r.Change(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	other, err := p.Hash(t.Context(), "h", "new")
	if err != nil {
		t.Fatal(err)
	}
	changed := change(r, &pb.AuthUserChangePasswordRequest{Name: "ann", HashedPassword: other})
	check(t.Context(), changed, "ann", "right", auth.ErrFailed)
	check(t.Context(), changed, "ann", "new", nil)
	check(t.Context(), change(changed, &pb.AuthUserDeleteRequest{Name: "ann"}), "ann", "new", auth.ErrFailed)
	check(t.Context(), changed, "ann", strings.Repeat("x", 1<<20), auth.ErrFailed)
}

// Whoever guesses gets no more tries where a password is remembered, however many
// guess at once, and keeps out nobody who asks from elsewhere.
func TestGuessesAtWhatIsRemembered(t *testing.T) {
	p := NewPasswords(MinCost)
	r := secured(t, p)
	if _, err := p.CheckOften(t.Context(), r, "h", "ann", "right"); err != nil {
		t.Fatal(err)
	}
	var looked atomic.Int64
	var wg sync.WaitGroup
	now := time.Now()
	guess := func(host, password string) (verdict, error) {
		return p.shown.again(p.turns.limit, now, host, "ann", r.User("ann").Hash, password)
	}
	for i := range 3 * triesAtOnce {
		wg.Go(func() {
			if v, _ := guess("guesser", strconv.Itoa(i)); v == wrong {
				looked.Add(1)
			}
		})
	}
	wg.Wait()
	if n := looked.Load(); n != triesAtOnce {
		t.Errorf("%d guesses were looked at, want %d", n, triesAtOnce)
	}
	if v, err := guess("guesser", "right"); v == right || !errors.Is(err, ErrTooMany) {
		t.Errorf("a guess that is right, after too many that were not: %v, %v", v, err)
	}
	if v, err := guess("h", "right"); v != right || err != nil {
		t.Errorf("ann from elsewhere: %v, %v", v, err)
	}
}

// A failure counts once, whether the password was remembered or not.
func TestFailuresCountOnce(t *testing.T) {
	p := NewPasswords(MinCost)
	r := secured(t, p)
	if _, err := p.CheckOften(t.Context(), r, "h", "ann", "right"); err != nil {
		t.Fatal(err)
	}
	for i := range triesAtOnce {
		if _, err := p.CheckOften(t.Context(), r, "guesser", "ann", "wrong"); !errors.Is(err, auth.ErrFailed) {
			t.Fatalf("try %d: %v", i, err)
		}
	}
}

func TestShownIsBounded(t *testing.T) {
	s := newShown()
	for i := range 2 * maxShown {
		s.keep(strconv.Itoa(i), []byte("hash"), "password")
	}
	if len(s.sums) > maxShown {
		t.Errorf("%d users are remembered, want at most %d", len(s.sums), maxShown)
	}
	if v, err := s.again(newLimit(), time.Now(), "h", strconv.Itoa(2*maxShown-1), []byte("hash"), "password"); v != right || err != nil {
		t.Errorf("the newest: %v, %v", v, err)
	}
}
