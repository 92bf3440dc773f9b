package auth

import "errors"

// What can be wrong with a change or a caller. api maps each to etcd's wire error.
var (
	ErrRootUserMissing   = errors.New("auth: root user does not exist")
	ErrRootRoleMissing   = errors.New("auth: root user does not have the root role")
	ErrUserExists        = errors.New("auth: user name already exists")
	ErrUserEmpty         = errors.New("auth: user name is empty")
	ErrUserNotFound      = errors.New("auth: user name not found")
	ErrRoleExists        = errors.New("auth: role name already exists")
	ErrRoleNotFound      = errors.New("auth: role name not found")
	ErrRoleEmpty         = errors.New("auth: role name is empty")
	ErrFailed            = errors.New("auth: invalid user ID or password")
	ErrNoPasswordUser    = errors.New("auth: the user has no password")
	ErrDenied            = errors.New("auth: permission denied")
	ErrPermNotGiven      = errors.New("auth: permission not given")
	ErrRoleNotGranted    = errors.New("auth: role is not granted to the user")
	ErrPermNotGranted    = errors.New("auth: permission is not granted to the role")
	ErrInvalidManagement = errors.New("auth: not possible while authentication is enabled, or not a range")
	ErrNotEnabled        = errors.New("auth: authentication is not enabled")
	ErrOldRevision       = errors.New("auth: users, roles or permissions have changed since the caller was looked up")
	ErrInvalidToken      = errors.New("auth: invalid token")
	ErrVerifyOnly        = errors.New("auth: there is no private key to sign tokens with")

	// Of etcd's v2 API alone, within a Refusal.
	ErrEnabled       = errors.New("auth: authentication is enabled already")
	ErrRootRole      = errors.New("auth: the role root does not change")
	ErrRoleGranted   = errors.New("auth: role is granted to the user already")
	ErrPermGranted   = errors.New("auth: permission is granted to the role already")
	ErrPasswordEmpty = errors.New("auth: password is empty")
	ErrPattern       = errors.New("auth: not a pattern")
	ErrUnchanged     = errors.New("auth: nothing would change")
)
