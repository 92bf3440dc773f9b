package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestAuthTokens follows simple tokens through all that ends them, and what does not.
func TestAuthTokens(t *testing.T) {
	t.Parallel()
	onStages(t, func(t *testing.T, s *stage) {
		peopled(s)
		for _, part := range []struct {
			name string
			tell func(*testing.T, *stage)
		}{
			{"roles change", func(_ *testing.T, s *stage) { tokensAndRoles(s) }},
			{"passwords change", func(_ *testing.T, s *stage) { tokensAndPasswords(s) }},
			{"users go", func(_ *testing.T, s *stage) { tokensAndUsers(s) }},
			{"auth goes and comes", func(_ *testing.T, s *stage) { tokensAndSwitch(s) }},
			{"a member stops and starts", func(t *testing.T, s *stage) { tokensAndRestart(t, s) }},
			{"a member is killed", func(t *testing.T, s *stage) { usersAndKill(t, s) }},
		} {
			t.Run(part.name, func(t *testing.T) { part.tell(t, s.on(t)) })
		}
	})
}

// try uses each token at each member, and so does nobody.
func (s *stage) try(tokens ...string) {
	for n := 1; n <= s.size; n++ {
		for _, token := range append(tokens, "") {
			for _, step := range []side.Step{get("a/1"), get("secret"), put("a/1", "v"), userGet("alice"), userList(), status(), leases()} {
				s.At(n).Do(as(token, step))
			}
			for m := 1; m <= s.size; m++ {
				s.At(m).Do(authStatus()) // has applied the put
			}
		}
	}
}

// enter logs users in, each under a name of its own for this time.
func (s *stage) enter(when string, names ...string) []string {
	var tokens []string
	for _, name := range names {
		token := fmt.Sprintf("<%s %s>", name, when)
		s.do("", side.Login{Name: name, Password: "pw", Token: token})
		tokens = append(tokens, token)
	}
	return tokens
}

func tokensAndRoles(s *stage) {
	for _, step := range []side.Step{
		revokeRole("alice", "app"), grantRole("alice", "app"), forbid("app", "a/", "a0"), permit("app", mayRead, "a/", "a0"), permit("app", mayBoth, "a/", "a0"),
		grantRole("alice", "root"), revokeRole("alice", "root"), roleDelete("writer"), grantRole("bob", "app"), revokeRole("bob", "app"),
		revokeRole("carol", "root"), grantRole("carol", "root"),
	} {
		s.do("<root>", step)
		s.try("<alice>", "<bob>", "<carol>")
	}
}

func tokensAndPasswords(s *stage) {
	second := s.enter("twice", "alice")[0]
	s.try("<alice>", second)
	s.do("<root>", changePassword("alice", "pw"))
	s.try("<alice>", second, "<bob>", "<root>")
	fresh := s.enter("after her password", "alice")[0]
	s.do("<root>", changeHash("alice", "not base64"))
	s.try(fresh)
	s.do("<root>", changePassword("root", "pw"))
	s.try(fresh, "<root>")
	s.do("<carol>", changePassword("carol", "pw"))
	s.try("<carol>")
	s.enter("after root's password", "root", "carol")
}

func tokensAndUsers(s *stage) {
	root := "<root after root's password>"
	token := s.enter("before she goes", "alice")[0]
	s.do(root, userDelete("alice"))
	s.try(token, "<bob>", root)
	s.all(root, userAdd("alice", "pw"), grantRole("alice", "app"))
	s.try(token)
	s.try(s.enter("back again", "alice")...)
	carol := "<carol after root's password>"
	s.do(carol, userDelete("carol"))
	s.try(carol)
	s.all(root, userAdd("carol", "pw"), grantRole("carol", "root"))
}

func tokensAndSwitch(s *stage) {
	tokens := s.enter("before the switch", "root", "alice")
	s.do(tokens[0], authDisable())
	s.try(tokens...)
	s.enter("while off", "root", "alice")
	s.do("", authEnable())
	s.try(append(tokens, "<bob>")...)
	s.try(s.enter("after the switch", "root", "alice")...)
	s.do("<root after the switch>", authEnable()) // again
	s.try("<root after the switch>", "<alice after the switch>")
}

// restart ends the n-th member on both sides and starts it on its data.
func (s *stage) restart(t *testing.T, n int, kill bool) {
	t.Helper()
	for _, cluster := range s.Sides() {
		m := cluster.Member(n)
		m.Disconnect()
		if kill {
			m.Server.Kill()
		} else if exit := m.Server.Terminate(patience); !exit.Clean(m.Server.Kind) {
			t.Errorf("%s ended with %+v on SIGTERM", m.Label, exit)
		}
		m.Server.Run()
		m.Connect(t)
	}
}

// tokensAndRestart: the member that was stopped has forgotten all tokens, the others have not.
func tokensAndRestart(t *testing.T, s *stage) {
	tokens := s.enter("before the stop", "root", "alice")
	s.restart(t, s.size, false)
	s.try(tokens...)
	fresh := s.enter("after the stop", "root", "alice", "bob")
	s.try(fresh...)
	everyone(s, fresh[0], []string{"root", "alice", "bob", "carol"}, []string{"app", "writer", "spare"})
}

// usersAndKill does not try the tokens from before: a server that replays its log after a crash
// replays logins as well, as many as it had not yet stored the effects of.
func usersAndKill(t *testing.T, s *stage) {
	s.all("<root after the stop>", userAdd("late", "pw"), roleAdd("late"), permit("late", mayRead, "l", "m"), grantRole("late", "late"), userDelete("carol"))
	s.restart(t, s.size, true)
	fresh := s.enter("after the kill", "root", "alice", "late", "carol")
	s.try(fresh...)
	everyone(s, fresh[0], []string{"root", "alice", "late", "carol"}, []string{"app", "late"})
}

// TestAuthTokenTTL leaves a token alone until it is gone. To ask whether it is makes it live longer, so
// that there must be pauses.
func TestAuthTokenTTL(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1, "--auth-token-ttl=1")
	s.all("", userAdd("root", "pw"), grantRole("root", "root"), authEnable())
	s.do("", side.Login{Name: "root", Password: "pw", Token: "<root>"})
	onBoth(t, s.At(1), func(target *side.Target) error {
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("deadline"))
		defer cancel()
		return proc.Eventually(ctx, 3*time.Second, func() error {
			if a := (side.As{Token: "<root>", Step: get("a")}).Run(ctx, target); a.Code != codes.Unauthenticated {
				return fmt.Errorf("%s answered %s", target.Label, a)
			}
			return nil
		})
	})
	s.ask("<root>", get("a"))
	s.try(s.enter("again", "root")...)
}

// TestAuthWatch withdraws rights under running watchers.
func TestAuthWatch(t *testing.T) {
	t.Parallel()
	onStages(t, func(t *testing.T, s *stage) {
		at := s.At(s.size)
		for _, step := range watchAll(1, 0) { // opened by nobody, before auth is on
			at.Do(step)
		}
		peopled(s)
		const before = 7 // the events of peopled
		at.Do(as("<alice>", side.WatchOpen{Handle: 2}))
		onKey := side.WatchCreate{Handle: 2, Request: &pb.WatchCreateRequest{Key: []byte("a/1")}}
		at.Do(onKey)
		at.Do(side.WatchCreate{Handle: 1, Request: &pb.WatchCreateRequest{Key: []byte("a/1")}})
		for i, change := range []side.Step{
			get("a/1"), forbid("app", "a/", "a0"), revokeRole("alice", "app"), changePassword("alice", "new"), userDelete("alice"), changePassword("bob", "new"),
			userAdd("alice", "pw"), authDisable(), authEnable(),
		} {
			s.do("<root>", change)
			if i == 7 {
				at.Do(side.WatchProgress{Handle: 2, Answered: true, Revision: 1})
			}
			s.do("<carol>", put("a/1", fmt.Sprint(i)))
			at.Do(onKey)
		}
		s.enter("at last", "carol")
		s.do("<carol at last>", put("a/1", "at last"))
		const seen = 9 // all of these but the one that found auth enabled and carol's token gone
		at.Do(events(1, before+seen))
		at.Do(events(2, seen))
		at.Do(side.WatchCancel{Handle: 2, ID: 0, Known: true})
		at.Do(side.WatchClose{Handle: 2})
	})
}

// TestAuthAlarms asks which comes first, the alarm or the caller.
func TestAuthAlarms(t *testing.T) {
	t.Parallel()
	onStages(t, func(_ *testing.T, s *stage) {
		peopled(s)
		for _, typ := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			set := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: typ, MemberID: side.MemberID(1)}
			end := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: typ, MemberID: side.MemberID(1)}
			s.do("<root>", side.Call{Method: "/etcdserverpb.Maintenance/Alarm", Request: set})
			for i, token := range callers {
				s.all(token,
					put("a/1", "v"), put("secret", "v"), put("", "v"), putLeased("secret", 99), remove("a/9", ""), remove("secret9", ""), get("a/1"), get("secret"),
					txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a/1", "v")}}), txn(&pb.TxnRequest{Failure: []*pb.RequestOp{putOp("secret", "v")}}),
					txn(&pb.TxnRequest{Success: []*pb.RequestOp{getOp("secret")}}), txn(&pb.TxnRequest{Success: []*pb.RequestOp{removeOp("secret9", false)}}),
					grant(int64(50+i), 5000), revoke(1), revoke(99), timeToLive(1), leases(), compact(1<<40), compact(-1), alarmOf(1, pb.AlarmRequest_GET),
					userAdd("alice", "pw"), userGet("alice"), authEnable(), authStatus(), status(),
				)
				s.ask("", side.Login{Name: "alice", Password: "pw", Token: tokenName("alice under "+typ.String(), i)})
				s.ask("", side.Login{Name: "alice", Password: "wrong", Token: "<none>"})
			}
			s.do("<root>", side.Call{Method: "/etcdserverpb.Maintenance/Alarm", Request: end})
		}
	})
}
