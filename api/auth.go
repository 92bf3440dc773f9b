package api

import (
	"context"
	"errors"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"limpet/auth"
	"limpet/login"
	"limpet/txn"
)

type authServer struct {
	pb.UnsafeAuthServer
	s *Server
}

// changeRules proposes a change of users, roles or permissions.
func changeRules[Resp interface{ GetHeader() *pb.ResponseHeader }](ctx context.Context, a *authServer, cmd txn.Command) (Resp, error) {
	resp, err := write[Resp](ctx, a.s, cmd)
	if err != nil {
		return resp, err
	}
	a.s.fill(resp.GetHeader())
	return resp, nil
}

// newestRules are those that reflect all changes before the call, and who asks.
func (a *authServer) newestRules(ctx context.Context) (*auth.Rules, auth.Caller, error) {
	c, err := a.s.caller(ctx)
	if err == nil {
		err = a.s.confirm(ctx)
	}
	return a.s.rules(), c, wireError(err)
}

// AuthEnable implements pb.AuthServer.
func (a *authServer) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return changeRules[*pb.AuthEnableResponse](ctx, a, r)
}

// AuthDisable implements pb.AuthServer.
func (a *authServer) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return changeRules[*pb.AuthDisableResponse](ctx, a, r)
}

// AuthStatus implements pb.AuthServer. Anybody may ask.
func (a *authServer) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	rules, _, err := a.newestRules(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.AuthStatusResponse{Header: a.s.fill(&pb.ResponseHeader{}), Enabled: rules.Enabled(), AuthRevision: rules.Revision()}, nil
}

// Authenticate implements pb.AuthServer. The password is looked at here, as that
// takes long; the login holds only if nothing has changed until it is agreed on.
func (a *authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := a.s.confirm(ctx); err != nil {
		return nil, wireError(err)
	}
	from := host(ctx)
	// Many may wait for their turn: none holds more than is needed.
	name, password := r.Name, strings.Clone(r.Password[:min(len(r.Password), login.MaxPassword)])
	if a.s.rules().User(name) == nil {
		name = "" // a password may have been typed in its place, or a book
	}
	r.Name, r.Password = "", ""
	for {
		rev, err := a.s.cfg.Login.Passwords.Check(ctx, a.s.rules(), from, name, password)
		if err != nil {
			a.s.tellOfFailure(err, a.s.rules(), name, from)
			return nil, wireError(err)
		}
		resp, err := a.issue(ctx, auth.Caller{User: name, Revision: rev})
		if !errors.Is(err, rpctypes.ErrGRPCAuthOldRevision) {
			return resp, err
		}
	}
}

// issue gives a token to whoever has shown a password.
func (a *authServer) issue(ctx context.Context, c auth.Caller) (*pb.AuthenticateResponse, error) {
	if jwt := a.s.cfg.Login.JWT; jwt != nil {
		token, err := jwt.Sign(c.User, c.Revision)
		if err == nil && c.Revision != a.s.rules().Revision() {
			err = auth.ErrOldRevision
		}
		if err != nil {
			return nil, wireError(err)
		}
		return &pb.AuthenticateResponse{Header: a.s.fill(&pb.ResponseHeader{}), Token: token}, nil
	}
	prefix := login.NewPrefix()
	digest := login.Digest(prefix)
	resp, err := propose[*pb.AuthenticateResponse](ctx, a.s, &txn.As{Caller: c, Command: &txn.Login{Digest: digest}})
	if err != nil {
		return nil, err
	}
	return &pb.AuthenticateResponse{Header: a.s.fill(resp.Header), Token: prefix + strings.TrimPrefix(resp.Token, digest)}, nil
}

// UserAdd implements pb.AuthServer. Only the hash of a password is agreed on.
func (a *authServer) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	add := &pb.AuthUserAddRequest{Name: r.Name, Options: r.Options}
	if !r.Options.GetNoPassword() {
		var err error
		if add.HashedPassword, err = a.hash(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	return changeRules[*pb.AuthUserAddResponse](ctx, a, add)
}

// hash hashes a password for root: others shall not keep this member busy.
func (a *authServer) hash(ctx context.Context, password string) (string, error) {
	if err := login.TooLong(password); err != nil {
		return "", wireError(err)
	}
	if err := a.s.admin(ctx); err != nil {
		return "", err
	}
	hash, err := a.s.cfg.Login.Passwords.Hash(ctx, host(ctx), password)
	return hash, wireError(err)
}

// UserGet implements pb.AuthServer. Users may ask about themselves.
func (a *authServer) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	rules, c, err := a.newestRules(ctx)
	if err != nil {
		return nil, err
	}
	if err := rules.Admin(c); err != nil && r.Name != c.User {
		return nil, wireError(err)
	}
	u := rules.User(r.Name)
	if u == nil {
		return nil, wireError(auth.ErrUserNotFound)
	}
	return &pb.AuthUserGetResponse{Header: a.s.fill(&pb.ResponseHeader{}), Roles: u.Roles}, nil
}

// UserList implements pb.AuthServer.
func (a *authServer) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	rules, c, err := a.newestRules(ctx)
	if err == nil {
		err = wireError(rules.Admin(c))
	}
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: a.s.fill(&pb.ResponseHeader{}), Users: rules.Users()}, nil
}

// UserDelete implements pb.AuthServer.
func (a *authServer) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return changeRules[*pb.AuthUserDeleteResponse](ctx, a, r)
}

// UserChangePassword implements pb.AuthServer. Without a password the hash given
// is taken.
func (a *authServer) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	change := &pb.AuthUserChangePasswordRequest{Name: r.Name, HashedPassword: r.HashedPassword}
	if r.Password != "" {
		var err error
		if change.HashedPassword, err = a.hash(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	return changeRules[*pb.AuthUserChangePasswordResponse](ctx, a, change)
}

// UserGrantRole implements pb.AuthServer.
func (a *authServer) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return changeRules[*pb.AuthUserGrantRoleResponse](ctx, a, r)
}

// UserRevokeRole implements pb.AuthServer.
func (a *authServer) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return changeRules[*pb.AuthUserRevokeRoleResponse](ctx, a, r)
}

// RoleAdd implements pb.AuthServer.
func (a *authServer) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return changeRules[*pb.AuthRoleAddResponse](ctx, a, r)
}

// RoleGet implements pb.AuthServer. Users may ask about their roles.
func (a *authServer) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	rules, c, err := a.newestRules(ctx)
	if err != nil {
		return nil, err
	}
	if err := rules.Admin(c); err != nil && !rules.HasRole(c.User, r.Role) {
		return nil, wireError(err)
	}
	role := rules.Role(r.Role)
	if role == nil {
		return nil, wireError(auth.ErrRoleNotFound)
	}
	return &pb.AuthRoleGetResponse{Header: a.s.fill(&pb.ResponseHeader{}), Perm: auth.WirePerms(r.Role, role)}, nil
}

// RoleList implements pb.AuthServer.
func (a *authServer) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	rules, c, err := a.newestRules(ctx)
	if err == nil {
		err = wireError(rules.Admin(c))
	}
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: a.s.fill(&pb.ResponseHeader{}), Roles: rules.Roles()}, nil
}

// RoleDelete implements pb.AuthServer.
func (a *authServer) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return changeRules[*pb.AuthRoleDeleteResponse](ctx, a, r)
}

// RoleGrantPermission implements pb.AuthServer.
func (a *authServer) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return changeRules[*pb.AuthRoleGrantPermissionResponse](ctx, a, r)
}

// RoleRevokePermission implements pb.AuthServer.
func (a *authServer) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return changeRules[*pb.AuthRoleRevokePermissionResponse](ctx, a, r)
}
