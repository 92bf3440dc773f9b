package login

import (
	"context"
	"fmt"
	"strings"
	"time"

	"limpet/auth"
)

// Desk is all that a member needs to let users in.
type Desk struct {
	Passwords *Passwords
	Simple    *Simple // knows no token if JWT is there
	JWT       *JWT    // nil: tokens are simple
	none      bool
}

// Config is what an operator can say of logins.
type Config struct {
	Token    string        // simple, "jwt," and its options, or empty for no tokens
	TokenTTL time.Duration // of simple tokens; 0: DefaultTokenTTL
	Cost     int           // of bcrypt; one out of its bounds is DefaultCost, as in etcd
}

// Open makes a Desk; wait is as in NewSimple.
func Open(cfg Config, wait func(ctx context.Context, index uint64) error) (*Desk, error) {
	if cfg.Cost < MinCost || cfg.Cost > MaxCost {
		cfg.Cost = DefaultCost
	}
	d := &Desk{Passwords: NewPasswords(cfg.Cost), Simple: NewSimple(cfg.TokenTTL, wait)}
	kind, options, _ := strings.Cut(cfg.Token, ",")
	switch kind {
	case "simple":
	case "":
		d.none = true
	case "jwt":
		var err error
		if d.JWT, err = ParseJWT(options); err != nil {
			return nil, fmt.Errorf("--auth-token: %w", err)
		}
	default:
		return nil, fmt.Errorf("--auth-token is %q, want simple or jwt,sign-method=M,pub-key=FILE,priv-key=FILE", kind)
	}
	return d, nil
}

// Caller tells whose token it is; auth.ErrInvalidToken if it is nobody's.
func (d *Desk) Caller(ctx context.Context, token string, rules *auth.Rules) (auth.Caller, error) {
	switch {
	case d.none:
		return auth.Caller{}, auth.ErrInvalidToken
	case d.JWT != nil:
		return d.JWT.Caller(token)
	}
	return d.Simple.Caller(ctx, token, rules)
}
