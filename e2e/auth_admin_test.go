package e2e

import (
	"encoding/base64"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// TestAuthAdmin goes through all calls of the Auth service, with good and with bad arguments, while
// auth is off and while it is on.
func TestAuthAdmin(t *testing.T) {
	t.Parallel()
	onStages(t, func(t *testing.T, s *stage) {
		for _, part := range []struct {
			name string
			tell func(*stage, string)
		}{
			{"users", adminUsers},
			{"roles", adminRoles},
			{"permissions", adminPermissions},
			{"passwords", adminPasswords},
			{"what enabling needs", enabling},
		} {
			t.Run(part.name, func(t *testing.T) { part.tell(s.on(t), "") })
		}
		s.do("", side.Login{Name: "root", Password: "pw", Token: "<root>"})
		for _, part := range []struct {
			name string
			tell func(*stage, string)
		}{
			{"users as root", adminUsers},
			{"roles as root", adminRoles},
			{"permissions as root", adminPermissions},
			{"passwords as root", adminPasswords},
			{"logins", logins},
			{"what root must keep", rootKeeps},
			{"off and on", offAndOn},
		} {
			t.Run(part.name, func(t *testing.T) { part.tell(s.on(t), "<root>") })
		}
	})
}

// everyone lists all users and roles and what they have.
func everyone(s *stage, token string, users, roles []string) {
	s.ask(token, userList())
	s.ask(token, roleList())
	for _, name := range users {
		s.ask(token, userGet(name))
	}
	for _, name := range roles {
		s.ask(token, roleGet(name))
	}
}

func adminUsers(s *stage, token string) {
	s.all(token,
		userGet(""), userGet("u1"), userDelete("u1"), userDelete(""), changePassword("u1", "x"), changePassword("", "x"),
		grantRole("u1", "r1"), grantRole("", ""), revokeRole("u1", "r1"), revokeRole("", ""),
		userAdd("", ""), userAdd("", "pw"), userAdd("u1", "pw"), userAdd("u1", "pw"), userAdd("u1", ""), userAddBare("u1"),
		userAdd("u0", ""), userAddBare("u2"), userAddBare(""), userAdd("U", "pw"), userAdd("naïve 日本", "pw"),
		userAdd("a\x00b", "pw"), userAdd(strings.Repeat("n", 3000), "pw"),
		userAdd("u3", strings.Repeat("x", 72)), userAdd("u4", strings.Repeat("x", 73)), userAdd("", strings.Repeat("x", 73)),
		authCall("UserAdd", &pb.AuthUserAddRequest{Name: "u5", Password: "pw", Options: &authpb.UserAddOptions{NoPassword: true}}),
		authCall("UserAdd", &pb.AuthUserAddRequest{Name: "u6", HashedPassword: "not base64"}),
		authCall("UserAdd", &pb.AuthUserAddRequest{Name: "u7", Password: "pw", HashedPassword: "not base64", Options: &authpb.UserAddOptions{}}),
	)
	users := []string{"u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "U", "naïve 日本", "a\x00b", strings.Repeat("n", 3000)}
	everyone(s, token, users, nil)
	s.all(token,
		grantRole("u1", "r1"), roleAdd("r2"), roleAdd("r1"), roleAdd("r3"),
		grantRole("u1", "r2"), grantRole("u1", "r1"), grantRole("u1", "r1"), grantRole("u1", "root"), grantRole("u1", "r3"), grantRole("u1", ""),
		userGet("u1"), revokeRole("u1", "none"), revokeRole("u1", ""), revokeRole("u1", "r2"), revokeRole("u1", "r2"), revokeRole("u2", "r1"),
		revokeRole("u1", "root"), userGet("u1"), grantRole("u0", "r3"), roleDelete("r3"), userGet("u0"), userGet("u1"),
		userDelete("u1"), userDelete("u1"), userAdd("u1", "pw2"), userGet("u1"),
	)
	for _, name := range users {
		s.do(token, userDelete(name))
	}
	s.all(token, roleDelete("r1"), roleDelete("r2"))
	everyone(s, token, nil, nil)
}

func adminRoles(s *stage, token string) {
	s.all(token,
		roleGet(""), roleGet("root"), roleGet("r1"), roleDelete(""), roleDelete("r1"),
		roleAdd(""), roleAdd("r1"), roleAdd("r1"), roleAdd("R"), roleAdd("r 日本"), roleAdd("r\x00"), roleAdd(strings.Repeat("r", 3000)),
		roleList(), roleGet("r1"), roleAdd("root"), roleAdd("root"), roleGet("root"), permit("root", mayRead, "a", ""), roleGet("root"),
		forbid("root", "a", ""), forbid("root", "", "\x00"), roleGet("root"),
		roleDelete("r1"), roleDelete("r1"), roleDelete("R"), roleDelete("r 日本"), roleDelete("r\x00"), roleDelete(strings.Repeat("r", 3000)), roleList(),
	)
	if token == "" { // else nobody deletes it
		s.all(token, roleDelete("root"), roleGet("root"))
	}
}

func adminPermissions(s *stage, token string) {
	s.all(token,
		authCall("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{}),
		authCall("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r1"}),
		authCall("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r1", Perm: &authpb.Permission{}}),
		permit("r1", mayRead, "a", ""), permit("", mayRead, "a", ""), permit("r1", mayRead, "b", "a"), forbid("r1", "a", ""), forbid("", "", ""),
		roleAdd("r1"),
		authCall("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: "r1"}),
		permit("r1", mayRead, "", ""), permit("r1", mayRead, "", "\x00"), permit("r1", mayRead, "", "b"), permit("r1", mayRead, "b", "b"),
		permit("r1", mayRead, "b", "a"), permit("r1", mayRead, "b", "b\x00"), permit("r1", mayRead, "\x00", "\x00"), permit("r1", mayRead, "\x00", ""),
		permit("r1", mayRead, "b", "\x00"), permit("r1", mayRead, "b", "\x00\x00"), permit("r1", mayRead, "\xff", "\x00"), permit("r1", 7, "n", ""), permit("r1", -1, "n", ""),
		roleGet("r1"),
		permit("r1", mayWrite, "a", ""), permit("r1", mayBoth, "a", "b"), permit("r1", mayRead, "a", "b"), permit("r1", mayRead, "a", ""), permit("r1", mayRead, "a", ""),
		permit("r1", mayWrite, "a", "c"), permit("r1", mayWrite, "a", "c"), permit("r1", mayRead, "a", "c"),
		roleGet("r1"),
		forbid("r1", "a", "a"), forbid("r1", "a", "d"), forbid("r1", "", ""), forbid("r1", "z", ""), forbid("r1", "a", "c"), forbid("r1", "a", "c"), forbid("r1", "a", ""),
		forbid("none", "a", ""), forbid("r1", "b", ""), forbid("r1", "b", "\x00"), forbid("r1", "n", ""),
		roleGet("r1"), roleDelete("r1"), roleGet("r1"),
	)
}

// hashOfPW is bcrypt's hash of "pw", of cost 4.
const hashOfPW = "$2a$04$aVJHA0U6OrDscjBS1BZ1RuuLVMZAJKoFfhhIf4wNjcCNDPPGHyUGS"

// adminPasswords stays below what limpet lets one user fail, some dozens at once: etcd has no such limit.
func adminPasswords(s *stage, token string) {
	code := base64.StdEncoding.EncodeToString
	s.all(token, userAdd("p1", "pw"), userAddBare("p2"))
	for i, change := range []side.Call{
		changePassword("p1", "new"), changePassword("p1", ""), changePassword("p1", strings.Repeat("x", 72)), changePassword("p1", strings.Repeat("x", 73)),
		changePassword("none", strings.Repeat("x", 73)), changeHash("none", "not base64"), changeHash("p1", "not base64"), changeHash("p1", "YWJj"),
		changeHash("p1", code([]byte(hashOfPW))), changeHash("p2", "not base64"),
		changePassword("p2", "pw"), changePassword("none", "pw"),
		authCall("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "p1", Password: "new", HashedPassword: "not base64"}),
	} {
		s.do(token, change)
		for j, password := range []string{"", "pw", "new", strings.Repeat("x", 72)} {
			for _, user := range []string{"p1", "p2"} {
				s.ask("", side.Login{Name: user, Password: password, Token: tokenName("password"+user, i, j)})
			}
		}
	}
	s.all(token, userDelete("p1"), userDelete("p2"))
}

func enabling(s *stage, token string) {
	s.all(token,
		authDisable(), authEnable(), userAdd("root", "pw"), authEnable(), roleAdd("root"), authEnable(), roleDelete("root"),
		side.Login{Name: "root", Password: "pw", Token: "<too early>"},
		grantRole("root", "root"), userGet("root"), roleGet("root"), roleList(), userAddBare("bare"), userAdd("empty", ""), userAdd("alice", "pw"),
		userAdd("long", strings.Repeat("x", 72)),
		authEnable(), authEnable(), userList(),
	)
}

func logins(s *stage, token string) {
	for i, l := range []side.Login{
		{Name: "root", Password: "pw"}, {Name: "root", Password: "wrong"}, {Name: "root"}, {}, {Password: "pw"}, {Name: "nobody", Password: "pw"},
		{Name: "bare", Password: "pw"}, {Name: "bare"}, {Name: "empty"}, {Name: "empty", Password: "pw"}, {Name: "alice", Password: "pw"},
		{Name: "alice", Password: strings.Repeat("x", 100)}, {Name: "Alice", Password: "pw"},
		{Name: "long", Password: strings.Repeat("x", 72)}, {Name: "long", Password: strings.Repeat("x", 73)}, {Name: "long", Password: strings.Repeat("x", 71)},
	} {
		for j, caller := range []string{"", "garbage", token} {
			l.Token = tokenName("login", i, j)
			s.do(caller, l)
		}
		s.ask(l.Token, userGet(l.Name)) // by whoever got in
		s.ask(l.Token, userList())
	}
}

func rootKeeps(s *stage, token string) {
	s.all(token,
		userDelete("root"), roleDelete("root"), revokeRole("root", "root"), revokeRole("root", "none"), roleGet("root"), authEnable(),
		roleAdd("root"), roleGet("root"), roleDelete("root"), roleAdd("r1"), grantRole("root", "r1"), revokeRole("root", "r1"),
		grantRole("alice", "root"), revokeRole("alice", "root"), changePassword("root", "pw"),
		authDisable(), // by a token that has gone with the password before
	)
	s.do("", side.Login{Name: "root", Password: "pw", Token: "<root again>"})
	s.all("<root again>", roleDelete("r1"), userList())
}

func offAndOn(s *stage, _ string) {
	s.do("", authDisable())
	s.all("<root again>", authDisable(), authDisable(), userList())
	s.do("", side.Login{Name: "root", Password: "pw", Token: "<while off>"})
	s.all("garbage", userList(), put("k", "v"), authEnable())
	for _, token := range []string{"<root again>", "", "garbage"} {
		s.do(token, userList())
	}
	s.do("", side.Login{Name: "root", Password: "pw", Token: "<root at last>"})
	s.all("<root at last>", userList(), authDisable(), revokeRole("root", "root"), authEnable(), userDelete("root"), authEnable())
}
