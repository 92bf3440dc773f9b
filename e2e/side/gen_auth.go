package side

import (
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Names are few, so that requests meet each other's traces. The empty ones and the last ones exist
// only if somebody errs.
var (
	userNames = []string{"alice", "bob", "carol", "dave", "alice", "bob", "carol", "dave", "root", "", "nobody"}
	roleNames = []string{"r1", "r2", "r3", "r4", "r1", "r2", "r3", "r4", "root", "", "none"}
)

const (
	rootPassword = "pw"
	authService  = "/etcdserverpb.Auth/"
)

// authPlan is what the generator knows of users and of the tokens they were given. It is nil in
// sessions without users: everything is then done by nobody.
type authPlan struct {
	enabled bool
	off     int                  // steps until auth is enabled again; 0 while it is on
	root    string               // the token root has
	fresh   map[string]string    // the last token of each user
	tokens  []string             // all of them, most of them gone
	logins  int                  // so far, which numbers the tokens
	perms   []*authpb.Permission // granted to one role or the other at some time
}

// NewAuthGenerator makes a generator whose steps are done by users, some of them, and that goes on
// changing who may do what.
func NewAuthGenerator(seed uint64) *Generator {
	g := NewGenerator(seed)
	g.auth = &authPlan{fresh: map[string]string{}}
	for _, name := range []string{"r1", "r2", "r3"} {
		g.authCall("RoleAdd", &pb.AuthRoleAddRequest{Name: name})
		for range 2 {
			g.planPermit(name)
		}
	}
	for _, name := range []string{"alice", "bob", "carol"} {
		g.authCall("UserAdd", &pb.AuthUserAddRequest{Name: name, Password: rootPassword})
		g.authCall("UserGrantRole", &pb.AuthUserGrantRoleRequest{User: name, Role: pick(g, "r1", "r2", "r3")})
	}
	g.planEnable()
	for _, name := range []string{"alice", "bob", "carol"} {
		g.later(func() planned { return g.login(name, rootPassword) })
	}
	return g
}

// as gives a step its caller.
func (p *authPlan) as(g *Generator, step Step) Step {
	if p == nil {
		return step
	}
	switch s := step.(type) {
	case As, Login:
		return step
	case Call:
		if strings.HasPrefix(s.Method, authService) && g.chance(65) {
			return p.asRoot(step)
		}
	}
	switch n := g.rng.IntN(100); {
	case n < 25:
		return p.asRoot(step)
	case n < 33:
		return step
	case n < 38:
		return As{pick(g, "garbage", "garbage.1", "", "a.b.c", ".1", "Bearer x.1"), step}
	case n < 52 && len(p.tokens) > 0:
		return As{pick(g, p.tokens...), step}
	}
	name := pick(g, "alice", "bob", "carol", "dave")
	if p.fresh[name] == "" {
		return step
	}
	return As{p.fresh[name], step}
}

// asRoot has root do what a session depends on.
func (p *authPlan) asRoot(step Step) Step {
	if p == nil || p.root == "" {
		return step
	}
	return As{p.root, step}
}

// tick counts the steps during which auth is off.
func (p *authPlan) tick(g *Generator) {
	if p == nil || p.off == 0 {
		return
	}
	if p.off--; p.off == 0 {
		g.planEnable()
	}
}

// planEnable does whatever may be missing for auth to be on, and logs root in.
func (g *Generator) planEnable() {
	g.authCall("UserAdd", &pb.AuthUserAddRequest{Name: "root", Password: rootPassword})
	g.authCall("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "root", Password: rootPassword})
	g.authCall("UserGrantRole", &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	g.authCall("AuthEnable", &pb.AuthEnableRequest{})
}

// login makes a step whose token later ones may use.
func (g *Generator) login(name, password string) planned {
	p := g.auth
	p.logins++
	token := fmt.Sprintf("<%s %d>", name, p.logins)
	p.tokens = append(p.tokens, token)
	return planned{Login{name, password, token}, func(a Answer) {
		if len(a.Messages) != 1 {
			return
		}
		if p.fresh[name] = token; name == "root" {
			p.root = token
		}
	}}
}

// forget leaves the tokens aside that there were.
func (p *authPlan) forget() { p.root, p.tokens, p.fresh = "", nil, map[string]string{} }

// first queues a step before all others.
func (g *Generator) first(make func() planned) {
	g.queue = append([]func() planned{make}, g.queue...)
}

// authCall queues a call of the Auth service. One that had an effect is followed by the question
// where auth stands, and now and then by logins, without which the tokens that bear a revision would
// be good for nothing.
func (g *Generator) authCall(method string, request proto.Message) {
	step := Call{Method: authService + method, Request: request}
	g.add(step, func(a Answer) {
		if len(a.Messages) != 1 {
			return
		}
		switch request := request.(type) {
		case *pb.AuthDisableRequest:
			if g.auth.enabled {
				g.auth.enabled, g.auth.off = false, 5+g.rng.IntN(20)
			}
		case *pb.AuthEnableRequest:
			if !g.auth.enabled {
				g.auth.enabled, g.auth.off = true, 0
				g.first(func() planned { return g.login("root", rootPassword) })
			}
		case *pb.AuthUserChangePasswordRequest:
			if request.Name == "root" {
				g.first(func() planned { return g.login("root", rootPassword) })
			}
		}
		if g.chance(60) {
			name := pick(g, "alice", "bob", "carol", "dave")
			g.first(func() planned { return g.login(name, rootPassword) })
			g.first(func() planned { return g.login("root", rootPassword) })
		}
		g.first(func() planned { return planned{authStatus(), nil} })
	})
}

func authStatus() Step {
	return Call{Method: authService + "AuthStatus", Request: &pb.AuthStatusRequest{}}
}

// planAuth draws a call of the Auth service.
func (g *Generator) planAuth() {
	user, role := pick(g, userNames...), pick(g, roleNames...)
	switch n := g.rng.IntN(100); {
	case n < 8:
		add := &pb.AuthUserAddRequest{Name: user, Password: pick(g, rootPassword, rootPassword, "", "other")}
		if g.chance(15) {
			add.Options = &authpb.UserAddOptions{NoPassword: g.chance(60)}
		}
		g.authCall("UserAdd", add)
	case n < 11:
		g.authCall("UserDelete", &pb.AuthUserDeleteRequest{Name: user})
	case n < 15:
		g.planPassword(user)
	case n < 26:
		g.authCall("UserGrantRole", &pb.AuthUserGrantRoleRequest{User: user, Role: role})
	case n < 31:
		g.authCall("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: user, Role: role})
	case n < 37:
		g.authCall("RoleAdd", &pb.AuthRoleAddRequest{Name: role})
	case n < 39:
		g.authCall("RoleDelete", &pb.AuthRoleDeleteRequest{Role: role})
	case n < 56:
		g.planPermit(role)
	case n < 63:
		g.planForbid(role)
	case n < 85:
		g.later(func() planned { return g.login(user, pick(g, rootPassword, rootPassword, rootPassword, "", "other")) })
	default:
		g.planAuthRest(n, user, role)
	}
}

// planAuthRest draws from what reads, and from the switch.
func (g *Generator) planAuthRest(n int, user, role string) {
	switch {
	case n < 89:
		g.add(Call{Method: authService + "UserGet", Request: &pb.AuthUserGetRequest{Name: user}}, nil)
	case n < 94:
		g.add(Call{Method: authService + "RoleGet", Request: &pb.AuthRoleGetRequest{Role: role}}, nil)
	case n < 95:
		g.add(Call{Method: authService + "UserList", Request: &pb.AuthUserListRequest{}}, nil)
	case n < 96:
		g.add(Call{Method: authService + "RoleList", Request: &pb.AuthRoleListRequest{}}, nil)
	case n < 98:
		g.add(authStatus(), nil)
	case n < 99:
		g.authCall("AuthEnable", &pb.AuthEnableRequest{})
	default:
		g.authCall("AuthDisable", &pb.AuthDisableRequest{})
	}
}

// planPassword changes a password; root's is only ever set to what it is.
func (g *Generator) planPassword(user string) {
	change := &pb.AuthUserChangePasswordRequest{Name: user, Password: rootPassword}
	if user != "root" {
		change.Password = pick(g, rootPassword, rootPassword, "", "other")
		change.HashedPassword = pick(g, "", "", "not base64", "YWJj")
	}
	g.authCall("UserChangePassword", change)
}

// planPermit grants a permission, now and then one that was granted before, with another type.
func (g *Generator) planPermit(role string) {
	perm := &authpb.Permission{PermType: authpb.Permission_Type(g.rng.IntN(3))}
	if perm.Key, perm.RangeEnd = g.span(); len(g.auth.perms) > 0 && g.chance(30) {
		old := pick(g, g.auth.perms...)
		perm.Key, perm.RangeEnd = old.Key, old.RangeEnd
	}
	g.auth.perms = append(g.auth.perms, perm)
	g.authCall("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: perm})
}

func (g *Generator) planForbid(role string) {
	perm := pick(g, g.auth.perms...)
	g.authCall("RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: role, Key: perm.Key, RangeEnd: perm.RangeEnd})
}

// lastingAuth asks for all that a restart must not change.
func (p *authPlan) lastingAuth() []Step {
	if p == nil {
		return nil
	}
	steps := []Step{
		authStatus(),
		Call{Method: authService + "UserList", Request: &pb.AuthUserListRequest{}},
		Call{Method: authService + "RoleList", Request: &pb.AuthRoleListRequest{}},
	}
	for i := range 4 {
		steps = append(steps,
			Call{Method: authService + "UserGet", Request: &pb.AuthUserGetRequest{Name: userNames[i]}},
			Call{Method: authService + "RoleGet", Request: &pb.AuthRoleGetRequest{Role: roleNames[i]}})
	}
	return steps
}
