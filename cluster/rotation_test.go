package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/txn"
)

// keys are the tokens on a board's disk; a token's text is its name in capitals.
type keys struct {
	name string

	mu     sync.Mutex // guards what follows
	held   []string   // the one in use first
	minted int
	fail   func(what string) error // before each change; nil: none fails
}

func (k *keys) Fingerprints() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.held)
}

func (k *keys) Reveal(fp string) (string, bool) {
	return strings.ToUpper(fp), slices.Contains(k.Fingerprints(), fp)
}

func (k *keys) Mint() (string, error) {
	k.minted++
	fp := fmt.Sprint("by-", k.name, "-", k.minted)
	return fp, k.Add(fp, strings.ToUpper(fp))
}

func (k *keys) Add(fp, text string) error {
	if text != strings.ToUpper(fp) {
		return fmt.Errorf("token %s has the text %s", fp, text)
	}
	return k.change("add", func() { k.held = append(k.held, fp) })
}

func (k *keys) Use(fp string) error {
	return k.change("use", func() {
		k.held = slices.Insert(slices.DeleteFunc(k.held, func(h string) bool { return h == fp }), 0, fp)
	})
}

func (k *keys) Drop(fp string) error {
	return k.change("drop", func() { k.held = slices.DeleteFunc(k.held, func(h string) bool { return h == fp }) })
}

func (k *keys) change(what string, do func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		if err := k.fail(what); err != nil {
			return err
		}
	}
	do()
	return nil
}

// onChange has the disk do something before each change.
func (k *keys) onChange(fail func(what string) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = fail
}

// keyed gives the boards the token "old".
func keyed(bs ...*board) []*keys {
	var out []*keys
	for _, b := range bs {
		k, set := &keys{name: b.name, held: []string{"old"}}, b.set
		b.set = func(c *Config) {
			if set != nil {
				set(c)
			}
			c.Tokens = k
		}
		out = append(out, k)
	}
	return out
}

// withTokens are n boards that run as one cluster with a token.
func withTokens(t *testing.T, n int) ([]*board, []*keys) {
	t.Helper()
	bs := boards(t, n)
	ks := keyed(bs...)
	startAll(bs)
	awaitIn(t, bs...)
	return bs, ks
}

func (b *board) rotate(do func(*Local, context.Context) error) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), deadline)
	defer cancel()
	return do(b.local, ctx)
}

func awaitHeld(t *testing.T, ks []*keys, want ...string) {
	t.Helper()
	for _, k := range ks {
		until(t, fmt.Sprint(k.name, " to hold ", want), func() bool { return slices.Equal(k.Fingerprints(), want) })
	}
}

// The token is replaced in two steps of the operator's, at any members, and
// then once more.
func TestRotation(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 3)
	a, b := follower(t, bs...), leader(t, bs...)
	if err := b.rotate((*Local).FinishRotation); err == nil || !strings.Contains(err.Error(), "not being replaced") {
		t.Errorf("an end without a beginning: %v", err)
	}
	for i, old := range []string{"old", fmt.Sprint("by-", a.name, "-1")} {
		fresh := fmt.Sprint("by-", a.name, "-", i+1)
		if err := a.rotate((*Local).RotateToken); err != nil {
			t.Fatal(err)
		}
		awaitHeld(t, ks, fresh, old)
		if err := b.rotate((*Local).RotateToken); err == nil || !strings.Contains(err.Error(), "--finish") {
			t.Errorf("before the old token is dropped: %v, want what to do", err)
		}
		r := a.local.Report(t.Context())
		if r.Rotation == nil || *r.Rotation != (RotationReport{old, fresh, true}) || len(r.Waits()) > 0 {
			t.Errorf("the report says %+v, and waits for %v", r.Rotation, r.Waits())
		}
		until(t, "the end", func() bool { return b.rotate((*Local).FinishRotation) == nil })
		awaitHeld(t, ks, fresh)
		if r := b.local.Report(t.Context()); r.Rotation != nil {
			t.Errorf("afterwards the report says %+v", r.Rotation)
		}
		if err := b.rotate((*Local).FinishRotation); err != nil || !slices.Equal(ks[0].Fingerprints(), []string{fresh}) {
			t.Errorf("a second end, as asked for by who has not heard the answer: %v, held %v", err, ks[0].Fingerprints())
		}
	}
}

// A member that is away is waited for, before the switch and before the end;
// whoever asks hears its name. When it comes back it catches up.
func TestRotationWaitsForWhoIsAway(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 3)
	away := follower(t, bs...)
	away.stop()
	here := slices.DeleteFunc(slices.Clone(bs), func(b *board) bool { return b == away })
	at := leader(t, here...)
	for range 2 { // the second time changes nothing
		if err := at.rotate((*Local).RotateToken); err != nil {
			t.Fatal(err)
		}
	}
	fresh := fmt.Sprint("by-", at.name, "-1")
	for i, b := range bs {
		if b != away {
			awaitHeld(t, ks[i:i+1], "old", fresh)
		}
	}
	until(t, "the report to name who is away", func() bool {
		r := at.local.Report(t.Context())
		return r.Rotation != nil && !r.Rotation.Switched && slices.Equal(r.Waits(), []string{away.name})
	})
	if err := at.rotate((*Local).FinishRotation); err == nil || !strings.Contains(err.Error(), away.name) {
		t.Errorf("an end before the switch: %v, want the name of who is away", err)
	}
	away.start()
	awaitHeld(t, ks, fresh, "old")
	away.stop()
	if err := at.rotate((*Local).FinishRotation); err == nil || !strings.Contains(err.Error(), ": "+away.name+";") {
		t.Errorf("an end while one is away: %v, want its name", err)
	}
	away.start()
	until(t, "the end", func() bool { return at.rotate((*Local).FinishRotation) == nil })
	awaitHeld(t, ks, fresh)
}

// Taking the member out that is away lets the others go on.
func TestRotationGoesOnWithoutTheRemoved(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 3)
	bs[2].stop()
	at := leader(t, bs[:2]...)
	if err := at.rotate((*Local).RotateToken); err != nil {
		t.Fatal(err)
	}
	fresh := fmt.Sprint("by-", at.name, "-1")
	awaitHeld(t, ks[:2], "old", fresh)
	if _, err := at.running().Propose(t.Context(), &txn.MemberRemove{ID: bs[2].identity().Member}); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, ks[:2], fresh, "old")
	until(t, "the end", func() bool { return at.rotate((*Local).FinishRotation) == nil })
	awaitHeld(t, ks[:2], fresh)
}

// A member may crash before each thing that it writes, the one that was asked
// to begin included: it goes on when it is back, and nobody ever uses a token
// that another one does not trust.
func TestRotationSurvivesCrashes(t *testing.T) {
	for _, who := range []string{"the one that begins", "another one"} {
		for _, step := range []string{"add", "use", "drop"} {
			t.Run(who+" before "+step, func(t *testing.T) {
				t.Parallel()
				bs, ks := withTokens(t, 3)
				at, victim := bs[0], 0
				if who == "another one" {
					victim = 1
				}
				crashed := make(chan struct{})
				var once sync.Once
				ks[victim].onChange(func(what string) error {
					if what != step {
						return nil
					}
					once.Do(func() { close(crashed) })
					return errCrash
				})
				until(t, "the crash", func() bool {
					advance(t, at, ks)
					select {
					case <-crashed:
						return true
					default:
						return false
					}
				})
				bs[victim].stop()
				ks[victim].onChange(nil)
				bs[victim].start()
				awaitIn(t, bs[victim])
				until(t, "the end", func() bool { return advance(t, at, ks) })
				in := ks[0].Fingerprints()[0]
				awaitHeld(t, ks, in)
			})
		}
	}
}

// advance asks for the next step of the rotation, and reports whether it is
// over. The tokens must fit together at any moment.
func advance(t *testing.T, at *board, ks []*keys) (done bool) {
	t.Helper()
	for _, k := range ks {
		inUse := k.Fingerprints()[0]
		for _, other := range ks {
			if !slices.Contains(other.Fingerprints(), inUse) {
				t.Fatalf("%s uses %s, which %s does not trust: it has %v", k.name, inUse, other.name, other.Fingerprints())
			}
		}
	}
	n := at.running()
	if n == nil {
		return false
	}
	switch n.Membership().Rotation.Phase {
	case txn.RotationNone:
		_ = at.rotate((*Local).RotateToken)
	case txn.RotationSwitched:
		_ = at.rotate((*Local).FinishRotation)
	case txn.RotationDone:
		return !slices.ContainsFunc(ks, func(k *keys) bool { return len(k.Fingerprints()) > 1 })
	}
	return false
}

// When the only one that had the new token is gone, another one is made.
func TestRotationWhoseTokenIsLost(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 3)
	lost := follower(t, bs...)
	here := slices.DeleteFunc(slices.Clone(bs), func(b *board) bool { return b == lost })
	at := leader(t, here...)
	if _, err := at.running().Propose(t.Context(), &txn.RotationStep{Now: txn.Rotation{From: "old", To: "gone", Phase: txn.RotationGathers}}); err != nil {
		t.Fatal(err)
	}
	if err := at.rotate((*Local).RotateToken); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, ks, fmt.Sprint("by-", at.name, "-1"), "old")
}

// A token that was made, and of which the log then said nothing, is dropped, and
// never used: somebody may have had it meanwhile.
func TestRotationThatDidNotBegin(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 1)
	if err := ks[0].Add("spare", "SPARE"); err != nil {
		t.Fatal(err)
	}
	if err := bs[0].rotate((*Local).RotateToken); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, ks, "by-m1-1", "old")
	until(t, "the end", func() bool { return bs[0].rotate((*Local).FinishRotation) == nil })
	awaitHeld(t, ks, "by-m1-1")
}

// Who joins with the old token after the switch gets the new one; the end waits
// for it.
func TestJoinDuringARotation(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 2)
	if err := bs[0].rotate((*Local).RotateToken); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, ks, "by-m1-1", "old")
	late := joiner(t, "late", 0xb1, bs[1], true)
	more := keyed(late)
	more[0].onChange(func(string) error { return errors.New("the disk is full") })
	late.start()
	awaitIn(t, late)
	until(t, "the end to wait for it", func() bool {
		err := bs[0].rotate((*Local).FinishRotation)
		return err != nil && strings.Contains(err.Error(), ": late;")
	})
	more[0].onChange(nil)
	awaitHeld(t, more, "by-m1-1", "old")
	until(t, "the end", func() bool { return bs[0].rotate((*Local).FinishRotation) == nil })
	awaitHeld(t, append(ks, more...), "by-m1-1")
}

// Nobody's tokens are touched where an operator gave all members others, and a
// rotation can begin from there.
func TestRotationAfterAnOperatorsToken(t *testing.T) {
	t.Parallel()
	bs, ks := withTokens(t, 1)
	if err := bs[0].rotate((*Local).RotateToken); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, ks, "by-m1-1", "old")
	bs[0].stop()
	ks[0].held = []string{"wish"}
	bs[0].start()
	awaitIn(t, bs...)
	if err := bs[0].rotate((*Local).RotateToken); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, ks, "by-m1-2", "wish")
}

func TestRotationRefused(t *testing.T) {
	t.Parallel()
	bs := founded(t, 1)
	if err := bs[0].rotate((*Local).RotateToken); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Errorf("without a token: %v", err)
	}
	waiting := joiner(t, "w", 0xb1, bs[0], false)
	keyed(waiting)
	waiting.start()
	if err := waiting.rotate((*Local).RotateToken); err == nil || !strings.Contains(err.Error(), "no cluster yet") {
		t.Errorf("before it is in: %v", err)
	}
	olds := boards(t, 1)
	keyed(olds...)
	set := olds[0].set
	olds[0].set = func(c *Config) { set(c); c.Format = rotationFormat - 1 }
	startAll(olds)
	awaitIn(t, olds...)
	if err := olds[0].rotate((*Local).RotateToken); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("with an older limpet: %v", err)
	}
}

// token asks another board for a token.
func (b *board) token(from *board, fp string) (string, error) {
	out := new(wrapperspb.BytesValue)
	ctx, cancel := context.WithTimeout(b.t.Context(), deadline)
	defer cancel()
	err := b.port.Invoke(ctx, from.identity().Member, memberPath+"Token", wrapperspb.Bytes([]byte(fp)), out)
	return string(out.Value), err
}

// Tokens are given to members, and to nobody else.
func TestTokensAreForMembers(t *testing.T) {
	t.Parallel()
	bs, _ := withTokens(t, 2)
	if got, err := bs[0].token(bs[1], "old"); err != nil || got != "OLD" {
		t.Errorf("a member got %q, %v", got, err)
	}
	if got, err := bs[0].token(bs[1], "other"); err == nil {
		t.Errorf("a token that is not there: %q", got)
	}
	stranger := joiner(t, "s", 0xb1, bs[0], false)
	stranger.note(Identity{Member: 0xb1, Cluster: bs[0].identity().Cluster})
	stranger.open()
	t.Cleanup(func() { stranger.stop() })
	stranger.local.me.cfg.Roster.saw(bs[1].local.Hello())
	if got, err := stranger.token(bs[1], "old"); err == nil || !strings.Contains(err.Error(), "for members") {
		t.Errorf("a stranger got %q, %v", got, err)
	}
}
