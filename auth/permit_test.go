package auth

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// with returns enabled rules in which root is root, and u has a role with perms.
func with(t *testing.T, perms ...*authpb.Permission) *Rules {
	t.Helper()
	steps := []any{
		&pb.AuthUserAddRequest{Name: Root}, &pb.AuthUserGrantRoleRequest{User: Root, Role: Root},
		&pb.AuthUserAddRequest{Name: "u"}, &pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"},
	}
	for _, p := range perms {
		steps = append(steps, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: p})
	}
	r := NewRules()
	for _, step := range append(steps, &pb.AuthEnableRequest{}) {
		var err error
		if r, err = r.Change(step); err != nil {
			t.Fatalf("%v: %v", step, err)
		}
	}
	return r
}

func perm(key, end string) *authpb.Permission {
	return &authpb.Permission{PermType: authpb.Permission_READ, Key: []byte(key), RangeEnd: []byte(end)}
}

// What ranges cover is compared with asking key by key. The keys are all strings
// of up to two letters; between two of them lies nothing that a range could name.
func TestRangesAgainstKeys(t *testing.T) {
	var keys []string
	for a := 'a'; a <= 'd'; a++ {
		keys = append(keys, string(a))
		for b := 'a'; b <= 'd'; b++ {
			keys = append(keys, string(a)+string(b))
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	key := func() string { return keys[r.IntN(len(keys))] }
	in := func(k, key, end string) bool {
		switch end {
		case "":
			return k == key
		case "\x00":
			return k >= key
		}
		return k >= key && k < end
	}
	for range 3000 {
		var perms []*authpb.Permission
		for range r.IntN(6) {
			from, to := key(), []string{"", "\x00", key(), key(), key()}[r.IntN(5)]
			if to > "\x00" && to <= from {
				continue
			}
			perms = append(perms, perm(from, to))
		}
		rules := with(t, perms...)
		caller := Caller{"u", rules.Revision()}
		for range 20 {
			from, to := key(), []string{"", "", key(), key(), "\x00"}[r.IntN(5)]
			want, open := true, false
			for _, p := range perms {
				open = open || string(p.RangeEnd) == "\x00"
			}
			for _, k := range keys {
				held := false
				for _, p := range perms {
					held = held || in(k, string(p.Key), string(p.RangeEnd))
				}
				want = want && (held || !in(k, from, to))
			}
			if to > "\x00" && to <= from {
				continue // another test
			}
			// No single keys add up to a range: there are keys between them.
			want = want && (to != "\x00" || open)
			got := rules.Read(caller, []byte(from), []byte(to)) == nil
			if got && !want || want && !got && !onlyPoints(perms, from, to) {
				t.Fatalf("%q to %q with %v: %v, want %v", from, to, perms, got, want)
			}
		}
	}
}

// onlyPoints reports whether the range needs a permission of a single key beside
// others, which never covers the keys behind it.
func onlyPoints(perms []*authpb.Permission, from, to string) bool {
	for _, p := range perms {
		if len(p.RangeEnd) == 0 && string(p.Key) >= from && (string(p.Key) < to || to == "\x00") {
			return true
		}
	}
	return false
}

// A range that ends before it begins needs its first key, as in etcd.
func TestReversedRanges(t *testing.T) {
	for _, tc := range []struct {
		perms []*authpb.Permission
		want  bool
	}{
		{[]*authpb.Permission{perm("a", "d")}, true},
		{[]*authpb.Permission{perm("a", "\x00")}, true},
		{[]*authpb.Permission{perm("c", "d")}, true},
		{[]*authpb.Permission{perm("c", "")}, true},
		{[]*authpb.Permission{perm("c", "\x00")}, true},
		{[]*authpb.Permission{perm("c1", "\x00")}, false},
		{[]*authpb.Permission{perm("a", "b1")}, false},
		{[]*authpb.Permission{perm("a", "b1"), perm("b1", "d")}, true},
	} {
		rules := with(t, tc.perms...)
		if err := rules.Read(Caller{"u", rules.Revision()}, []byte("c"), []byte("b")); (err == nil) != tc.want {
			t.Errorf("%v: %v, want allowed %v", tc.perms, err, tc.want)
		}
	}
}

func TestCallers(t *testing.T) {
	rules := with(t, perm("a", ""))
	for _, tc := range []struct {
		c                  Caller
		known, admin, read error
	}{
		{Caller{}, ErrUserEmpty, ErrUserEmpty, ErrUserEmpty},
		{Caller{"", 9}, nil, ErrUserEmpty, ErrDenied},
		{Caller{"u", rules.Revision()}, nil, ErrDenied, nil},
		{Caller{"u", rules.Revision() - 1}, nil, ErrDenied, ErrOldRevision},
		{Caller{"u", rules.Revision() + 1}, nil, ErrDenied, nil},
		{Caller{"gone", rules.Revision()}, nil, ErrUserNotFound, ErrDenied},
		{Caller{Root, rules.Revision()}, nil, nil, nil},
		{Caller{Root, 1}, nil, nil, ErrOldRevision},
	} {
		known, admin, read := rules.Known(tc.c), rules.Admin(tc.c), rules.Read(tc.c, []byte("a"), nil)
		if !errors.Is(known, tc.known) || !errors.Is(admin, tc.admin) || !errors.Is(read, tc.read) {
			t.Errorf("%+v: %v, %v, %v; want %v, %v, %v", tc.c, known, admin, read, tc.known, tc.admin, tc.read)
		}
	}
	off, err := rules.Change(&pb.AuthDisableRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(off.Known(Caller{}), off.Admin(Caller{}), off.Write(Caller{}, []byte("x"), nil)); err != nil {
		t.Errorf("while nothing is checked: %v", err)
	}
}

// Rules never change: whoever holds some reads on while others are made.
func TestChangesMakeOthers(t *testing.T) {
	rules := with(t, perm("a", "c"))
	before := fmt.Sprint(rules.Records(NewRules()))
	for _, change := range []any{
		&pb.AuthUserAddRequest{Name: "v"}, &pb.AuthUserDeleteRequest{Name: "u"}, &pb.AuthUserChangePasswordRequest{Name: "u", HashedPassword: "cg=="},
		&pb.AuthUserGrantRoleRequest{User: "u", Role: Root}, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"},
		&pb.AuthRoleAddRequest{Name: "s"}, &pb.AuthRoleDeleteRequest{Role: "r"},
		&pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: perm("a", "c")}, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: perm("a", "")},
		&pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a"), RangeEnd: []byte("c")}, &pb.AuthDisableRequest{},
	} {
		next, err := rules.Change(change)
		if err != nil || next == rules {
			t.Errorf("%T: %v", change, err)
		}
		if next.Revision() != rules.Revision()+1 {
			t.Errorf("%T: revision %d after %d", change, next.Revision(), rules.Revision())
		}
		if after := fmt.Sprint(rules.Records(NewRules())); after != before {
			t.Fatalf("%T changed the rules it was applied to: %s, before %s", change, after, before)
		}
	}
}
