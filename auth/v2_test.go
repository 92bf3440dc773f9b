package auth

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"unicode/utf8"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var on, off = true, false

const hash = "aGFzaA==" // of no password

// after applies changes that all succeed.
func after(t *testing.T, r *Rules, changes ...any) *Rules {
	t.Helper()
	for _, c := range changes {
		var err error
		if r, err = r.Change(c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	return r
}

func user(name string, roles ...string) *V2Change {
	return &V2Change{User: &V2User{Name: name, HashedPassword: hash, Roles: roles}}
}

func role(name string, read, write []string) *V2Change {
	return &V2Change{Role: &V2Role{Name: name, Perms: V2Perms{Read: read, Write: write}}}
}

func TestV2Permissions(t *testing.T) {
	r := after(t, NewRules(), user(Root),
		role("app", []string{"/app/*", "/one"}, []string{"/app/w/*"}), user("ann", "app"),
		role("all", []string{"*"}, nil), user("bob", "all"),
		role("both", []string{"/d", "/d/*"}, nil), user("cat", "both", "none"),
		role(Guest, []string{"/pub/*"}, []string{"/drop"}),
		&V2Change{Enabled: &on})
	const read, write, recursive = 1, 2, 4
	for _, tc := range []struct {
		user, path string
		how        int
		want       error
	}{
		{Root, "/", write | recursive, nil},
		{"ann", "/app/x", read, nil}, {"ann", "/app/x", read | recursive, nil}, {"ann", "/app/x", write, ErrDenied},
		{"ann", "/app/w/x", write | recursive, nil}, {"ann", "/app/w", write, ErrDenied},
		{"ann", "/app", read, ErrDenied}, {"ann", "/apple", read, ErrDenied}, {"ann", "/app", read | recursive, ErrDenied},
		{"ann", "/app/", read, nil}, {"ann", "/app/", read | recursive, nil}, {"ann", "/app/", write, ErrDenied}, {"ann", "/one/", read, ErrDenied},
		{"ann", "/one", read, nil}, {"ann", "/one", read | recursive, ErrDenied}, {"ann", "/one/x", read, ErrDenied},
		{"ann", "/", read, ErrDenied}, {"ann", "/", read | recursive, ErrDenied}, {"ann", "/pub/x", read, ErrDenied},
		{"bob", "/", read | recursive, nil}, {"bob", "/x", write, ErrDenied},
		{"cat", "/d", read | recursive, nil}, {"cat", "/d/x", read | recursive, nil},
		{"", "/pub/x", read, nil}, {"", "/pub/x", read | recursive, nil}, {"", "/pub/x", write, ErrDenied}, {"", "/pub", read, ErrDenied},
		{"", "/drop", write, nil}, {"", "/drop", write | recursive, ErrDenied}, {"", "/drop", read, ErrDenied},
		{"nobody", "/pub/x", read, ErrDenied},
	} {
		c := Caller{}
		if tc.user != "" {
			c = Caller{tc.user, r.Revision()}
		}
		for range 2 { // what is merged the first time is remembered
			if err := r.V2(c, tc.path, tc.how&recursive != 0, tc.how&write != 0); !errors.Is(err, tc.want) {
				t.Errorf("%q %s, how %b: %v, want %v", tc.user, tc.path, tc.how, err, tc.want)
			}
		}
	}
	if err := r.V2(Caller{"ann", r.Revision() - 1}, "/app/x", false, false); !errors.Is(err, ErrOldRevision) {
		t.Errorf("rules have changed since: %v", err)
	}
	// A user of the role's name has nothing of it, and v3 knows no guests.
	r = after(t, r, user("guest"))
	if err := r.V2(Caller{"guest", r.Revision()}, "/pub/x", false, false); !errors.Is(err, ErrDenied) {
		t.Errorf("a user by the name of guest: %v", err)
	}
	if err := r.Read(Caller{}, []byte("/pub/x"), nil); err == nil {
		t.Error("nobody reads v3's keys as a guest")
	}
	r = after(t, r, &pb.AuthRoleDeleteRequest{Role: Guest})
	if err := r.V2(Caller{}, "/pub/x", false, false); !errors.Is(err, ErrDenied) {
		t.Errorf("nobody, where there are no guests: %v", err)
	}
	r = after(t, r, &V2Change{Enabled: &off})
	if err := r.V2(Caller{}, "/any", true, true); err != nil {
		t.Errorf("while nothing is checked: %v", err)
	}
}

func TestPatterns(t *testing.T) {
	for pattern, want := range map[string]Perm{
		"/foo":         {Key: []byte("/foo")},
		"/app/*":       {Key: []byte("/app/"), End: []byte("/app0")},
		"/*":           {Key: []byte("/"), End: []byte("0")},
		"foo*":         {Key: []byte("foo"), End: []byte("fop")},
		"/a*b":         {Key: []byte("/a*b")},
		"*":            {Key: []byte{0}, End: []byte{0}},
		"/\U0010ffff*": {Key: []byte("/\U0010ffff"), End: []byte("/\xf4\x8f\xbf\xc0")},
	} {
		p, err := parsePattern(pattern)
		if err != nil || !reflect.DeepEqual(p, want) || p.pattern() != pattern {
			t.Errorf("%s: %+v, %v, shown as %s; want %+v", pattern, p, err, p.pattern(), want)
		}
	}
	for want, p := range map[string]Perm{
		`["a", "c")`:               {Key: []byte("a"), End: []byte("c")},
		`["a", ...)`:               {Key: []byte("a"), End: []byte{0}},
		`["foo*", "foo*\x00")`:     {Key: []byte("foo*")},
		`["\xff", ...)`:            {Key: []byte{0xff}, End: []byte{0}},
		`["\xff\xfe", "\xff\xff")`: {Key: []byte{0xff, 0xfe}, End: []byte{0xff, 0xff}},
		`["[x", "[x\x00")`:         {Key: []byte("[x")},
	} {
		if got := p.pattern(); got != want {
			t.Errorf("%+v is shown as %s, want %s", p, got, want)
		}
		if _, err := parsePattern(want); !errors.Is(err, ErrPattern) {
			t.Errorf("%s can be granted: %v", want, err)
		}
	}
	if _, err := parsePattern(""); !errors.Is(err, ErrPattern) {
		t.Errorf("nothing is a pattern: %v", err)
	}
}

// Permissions of v3 are seen through v2 and taken back there, and the other way
// round.
func TestOneSetOfRoles(t *testing.T) {
	permit := func(kind authpb.Permission_Type, key, end string) any {
		return &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}}
	}
	r := after(t, NewRules(), &pb.AuthRoleAddRequest{Name: "r"},
		permit(authpb.READWRITE, "/a/", "/a0"), permit(authpb.READ, "k", ""), permit(authpb.WRITE, "m", "p"))
	want := V2Perms{Read: []string{"/a/*", "k"}, Write: []string{"/a/*", `["m", "p")`}}
	if got, _ := r.V2Role("r"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	r = after(t, r, &V2Change{Role: &V2Role{Name: "r", Grant: V2Perms{Write: []string{"k"}}, Revoke: V2Perms{Read: []string{"/a/*", "/none"}, Write: []string{`["m", "p")`}}}})
	perms := WirePerms("r", r.Role("r"))
	if got, want := fmt.Sprint(perms), fmt.Sprint([]*authpb.Permission{
		{PermType: authpb.WRITE, Key: []byte("/a/"), RangeEnd: []byte("/a0")}, {PermType: authpb.READWRITE, Key: []byte("k")},
	}); got != want {
		t.Errorf("v3 sees %s, want %s", got, want)
	}
	if got, want := r.V2Roles(), []string{"r", Root}; !slices.Equal(got, want) {
		t.Errorf("roles %v, want %v", got, want)
	}
	if _, ok := r.V2Role("none"); ok {
		t.Error("a role that is not there")
	}
}

func TestV2Changes(t *testing.T) {
	add := func(u V2User) *V2Change { return &V2Change{User: &u} }
	addRole := func(r V2Role) *V2Change { return &V2Change{Role: &r} }
	read := func(p ...string) V2Perms { return V2Perms{Read: p} }
	base := after(t, NewRules(), user("bob", "x"), role("x", []string{"/a", "/a"}, nil),
		&pb.AuthUserAddRequest{Name: "cert", Options: &authpb.UserAddOptions{NoPassword: true}})
	open := after(t, base, user(Root), &V2Change{Enabled: &on})
	for _, tc := range []struct {
		rules  *Rules
		change *V2Change
		kind   error
		text   string
	}{
		{base, &V2Change{Enabled: &on}, ErrRootUserMissing, "auth: No root user available, please create one"},
		{base, &V2Change{Enabled: &off}, ErrNotEnabled, "auth: already disabled"},
		{open, &V2Change{Enabled: &on}, ErrEnabled, "auth: already enabled"},
		{base, add(V2User{Name: "new"}), ErrPasswordEmpty, "auth: Cannot create user new with an empty password"},
		{base, add(V2User{Name: "bob", HashedPassword: hash, Roles: []string{"x"}}), ErrUserExists, "auth: User bob already exists."},
		{base, add(V2User{Name: "new", Grant: []string{"x"}}), ErrUserNotFound, "auth: User new does not exist."},
		{base, add(V2User{Name: "bob", Grant: []string{"x"}}), ErrRoleGranted, "auth: Granting duplicate role x for user bob"},
		{base, add(V2User{Name: "bob", Revoke: []string{"y"}}), ErrRoleNotGranted, "auth: Revoking ungranted role y for user bob"},
		{base, add(V2User{Name: "bob"}), ErrUnchanged, "auth: User not updated. Use grant/revoke/password to update the user."},
		{base, add(V2User{Name: "cert", HashedPassword: hash}), ErrNoPasswordUser, "auth: User cert is known by a certificate only and cannot get a password."},
		{base, add(V2User{HashedPassword: hash}), ErrUserEmpty, "auth: user name is empty"},
		{base, add(V2User{Name: "new", HashedPassword: "?"}), ErrNoPasswordUser, "auth: the user has no password"},
		{base, add(V2User{Name: "bob", HashedPassword: "?"}), ErrNoPasswordUser, "auth: the user has no password"},
		{open, add(V2User{Name: Root, Revoke: []string{Root}}), ErrInvalidManagement, "auth: Cannot revoke role root from user root while auth is enabled."},
		{open, add(V2User{Name: Root, Grant: []string{Root}}), ErrRoleGranted, "auth: Granting duplicate role root for user root"},
		{base, addRole(V2Role{Name: Root}), ErrRootRole, "auth: Cannot modify role root: is root role."},
		{base, addRole(V2Role{Name: Root, Grant: read("/b")}), ErrRootRole, "auth: Cannot modify role root: is root role."},
		{base, addRole(V2Role{}), ErrRoleEmpty, "auth: role name is empty"},
		{base, addRole(V2Role{Name: "x"}), ErrRoleExists, "auth: Role x already exists."},
		{base, addRole(V2Role{Name: "y", Revoke: read("/b")}), ErrRoleNotFound, "auth: Role y does not exist."},
		{base, addRole(V2Role{Name: "x", Grant: read("/a")}), ErrPermGranted, "auth: Granting duplicate read permission /a"},
		{base, addRole(V2Role{Name: "x", Grant: V2Perms{Write: []string{"/b", "/b"}}}), ErrPermGranted, "auth: Granting duplicate write permission /b"},
		{base, addRole(V2Role{Name: "x", Revoke: read("/b")}), ErrUnchanged, "auth: Role not updated. Use grant/revoke to update the role."},
		{base, addRole(V2Role{Name: "y", Perms: read("")}), ErrPattern, `auth: "" is not a pattern: give a key, or the beginning of keys and a star`},
	} {
		now, err := tc.rules.Change(tc.change)
		if !errors.Is(err, tc.kind) || err.Error() != tc.text || now != tc.rules {
			t.Errorf("%+v %+v: %v, want %q; changed %v", tc.change.User, tc.change.Role, err, tc.text, now != tc.rules)
		}
	}
	done := after(t, open, add(V2User{Name: "bob", HashedPassword: "bmV3", Grant: []string{"b", "a"}, Revoke: []string{"x"}}))
	if u := done.User("bob"); string(u.Hash) != "new" || !slices.Equal(u.Roles, []string{"a", "b"}) {
		t.Errorf("bob is %+v", u)
	}
	if done.Revision() != open.Revision()+1 || string(open.User("bob").Hash) != "hash" {
		t.Errorf("revision %d after %d; bob was %+v", done.Revision(), open.Revision(), open.User("bob"))
	}
}

// Enabling makes a guest who may do everything, once; v3's makes none.
func TestV2Enable(t *testing.T) {
	r := after(t, NewRules(), &pb.AuthUserAddRequest{Name: Root, HashedPassword: hash})
	on1 := after(t, r, &V2Change{Enabled: &on})
	all := V2Perms{Read: []string{"/*"}, Write: []string{"/*"}}
	if guest, _ := on1.V2Role(Guest); !on1.HasRole(Root, Root) || !reflect.DeepEqual(guest, all) {
		t.Errorf("root %v, guest %v", on1.User(Root), guest)
	}
	if err := on1.V2(Caller{}, "/", true, true); err != nil {
		t.Errorf("nobody, at first: %v", err)
	}
	shut := after(t, on1, &V2Change{Role: &V2Role{Name: Guest, Revoke: all}}, &V2Change{Enabled: &off}, &V2Change{Enabled: &on})
	if err := shut.V2(Caller{}, "/x", false, false); !errors.Is(err, ErrDenied) {
		t.Errorf("enabled again, what guests may is forgotten: %v", err)
	}
	again := after(t, shut, &V2Change{Enabled: &off}, &V2Change{Enabled: &on})
	if again.Revision() != shut.Revision()+1 { // disabling counts
		t.Errorf("revision %d after %d", again.Revision(), shut.Revision())
	}
	v3 := after(t, r, &pb.AuthUserGrantRoleRequest{User: Root, Role: Root}, &pb.AuthEnableRequest{})
	if err := v3.V2(Caller{}, "/x", false, false); !errors.Is(err, ErrDenied) {
		t.Errorf("nobody, after v3 enabled authentication: %v", err)
	}
}

// FuzzPatterns: a permission is shown by a name that stands for it alone, or that
// cannot be granted; and what can be granted is shown as it was.
func FuzzPatterns(f *testing.F) {
	for _, seed := range [][3]string{{"/app/", "/app0", "/app/*"}, {"\x00", "\x00", "*"}, {"a*", "", "a*"}, {"[", "\\", "[*"}, {"\xff", "\x00", "\xff*"}} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, key, end, pattern string) {
		p := Perm{Key: []byte(key), End: []byte(end)}
		if validSpan(&authpb.Permission{Key: p.Key, RangeEnd: p.End}) {
			name := p.pattern()
			q, err := parsePattern(name)
			if err == nil && (string(q.Key) != key || string(q.End) != end) {
				t.Errorf("%q to %q is shown as %s, which is %q to %q", key, end, name, q.Key, q.End)
			}
		}
		if q, err := parsePattern(pattern); err == nil && utf8.ValidString(pattern) && q.pattern() != pattern {
			t.Errorf("%q is shown as %q", pattern, q.pattern())
		}
	})
}
