package e2e

import (
	"fmt"
	"regexp"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"limpet/e2e/side"
)

// Short forms for the steps of the stories about users.

func authCall(method string, request proto.Message) side.Call {
	return side.Call{Method: "/etcdserverpb.Auth/" + method, Request: request}
}

func authEnable() side.Call  { return authCall("AuthEnable", &pb.AuthEnableRequest{}) }
func authDisable() side.Call { return authCall("AuthDisable", &pb.AuthDisableRequest{}) }
func authStatus() side.Call  { return authCall("AuthStatus", &pb.AuthStatusRequest{}) }
func userList() side.Call    { return authCall("UserList", &pb.AuthUserListRequest{}) }
func roleList() side.Call    { return authCall("RoleList", &pb.AuthRoleListRequest{}) }

func userGet(name string) side.Call { return authCall("UserGet", &pb.AuthUserGetRequest{Name: name}) }
func roleGet(name string) side.Call { return authCall("RoleGet", &pb.AuthRoleGetRequest{Role: name}) }
func roleAdd(name string) side.Call { return authCall("RoleAdd", &pb.AuthRoleAddRequest{Name: name}) }

func userDelete(name string) side.Call {
	return authCall("UserDelete", &pb.AuthUserDeleteRequest{Name: name})
}

func roleDelete(name string) side.Call {
	return authCall("RoleDelete", &pb.AuthRoleDeleteRequest{Role: name})
}

func userAdd(name, password string) side.Call {
	return authCall("UserAdd", &pb.AuthUserAddRequest{Name: name, Password: password})
}

// userAddBare adds a user who has no password and may not have one.
func userAddBare(name string) side.Call {
	return authCall("UserAdd", &pb.AuthUserAddRequest{Name: name, Options: &authpb.UserAddOptions{NoPassword: true}})
}

func changePassword(name, password string) side.Call {
	return authCall("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: name, Password: password})
}

// changeHash gives the password's hash instead of the password.
func changeHash(name, hash string) side.Call {
	return authCall("UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: name, HashedPassword: hash})
}

func grantRole(user, role string) side.Call {
	return authCall("UserGrantRole", &pb.AuthUserGrantRoleRequest{User: user, Role: role})
}

func revokeRole(user, role string) side.Call {
	return authCall("UserRevokeRole", &pb.AuthUserRevokeRoleRequest{Name: user, Role: role})
}

const (
	mayRead  = authpb.Permission_READ
	mayWrite = authpb.Permission_WRITE
	mayBoth  = authpb.Permission_READWRITE
)

func permit(role string, typ authpb.Permission_Type, key, end string) side.Call {
	perm := &authpb.Permission{PermType: typ, Key: []byte(key), RangeEnd: []byte(end)}
	return authCall("RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: perm})
}

func forbid(role, key, end string) side.Call {
	return authCall("RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(key), RangeEnd: []byte(end)})
}

// as does a step with a token; "" is nobody's.
func as(token string, step side.Step) side.Step {
	if token == "" {
		return step
	}
	return side.As{Token: token, Step: step}
}

// tokenName is the neutral name of one of many tokens.
func tokenName(what string, numbers ...int) string { return fmt.Sprintf("<%s %v>", what, numbers) }

// cheapHash keeps the servers from spending their time on passwords.
const cheapHash = "--bcrypt-cost=4"

// stage is where a story about users plays: a cluster beside another one. Its calls go to the members
// in turn.
type stage struct {
	*side.Clusters
	size int
	last int // the member that was called last
}

// onStages tells a story on single members and on clusters of three.
func onStages(t *testing.T, story func(*testing.T, *stage), flags ...string) {
	for _, size := range []int{1, 3} {
		t.Run(map[int]string{1: "alone", 3: "of three"}[size], func(t *testing.T) {
			story(t, newStage(t, size, flags...))
		})
	}
}

func newStage(t *testing.T, size int, flags ...string) *stage {
	t.Helper()
	s := &stage{Clusters: side.NewClusters(t, subject(), size, append(flags, cheapHash)...), size: size}
	s.Settle()
	return s
}

// on gives the same stage for a subtest.
func (s *stage) on(t *testing.T) *stage { return &stage{Clusters: s.On(t), size: s.size, last: s.last} }

// ask does a step that changes nothing at the next member.
func (s *stage) ask(token string, step side.Step) side.Answer {
	s.last = s.last%s.size + 1
	return s.At(s.last).Do(as(token, step))
}

// reads are the calls that change nothing.
var reads = regexp.MustCompile(`/(Range|Status|Hash|HashKV|LeaseTimeToLive|LeaseLeases|MemberList|UserGet|UserList|RoleGet|RoleList|AuthStatus) |^(RangeStream|LeaseKeepAlive|Snapshot|GET|MemberList) `)

// do does a step at the next member. If it may have changed anything, every member says where auth
// stands, for which it has to have applied the step.
func (s *stage) do(token string, step side.Step) side.Answer {
	answer := s.ask(token, step)
	if answer.Code == codes.OK && !reads.MatchString(step.String()+" ") {
		for n := 1; n <= s.size; n++ {
			s.At(n).Do(authStatus())
		}
	}
	return answer
}

// all does steps one after the other.
func (s *stage) all(token string, steps ...side.Step) {
	for _, step := range steps {
		s.do(token, step)
	}
}
