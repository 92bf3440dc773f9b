package side

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
)

// As does a step as the holder of a token. Steps on a watch stream have the caller that opened it.
type As struct {
	Token string // a name that a Login bound, or a text that is sent as it is
	Step  Step
}

// Run does the step.
func (s As) Run(ctx context.Context, t *Target) Answer {
	return s.Step.Run(metadata.AppendToOutgoingContext(ctx, "token", t.Names.RealText(s.Token)), t)
}

func (s As) String() string { return fmt.Sprintf("as %s: %s", cut(s.Token, 100), s.Step) }

// Login is an Authenticate call. The token it brings has the neutral name Token afterwards, which
// must be a new one and in angle brackets, so that none is the beginning of another.
type Login struct{ Name, Password, Token string }

// Run logs in. The answer has the response, and what the token says.
func (l Login) Run(ctx context.Context, t *Target) Answer {
	request := &pb.AuthenticateRequest{Name: l.Name, Password: l.Password}
	a := Call{Method: "/etcdserverpb.Auth/Authenticate", Request: request}.Run(ctx, t)
	if len(a.Messages) == 0 {
		return a
	}
	response := a.Messages[0].(*pb.AuthenticateResponse)
	token := t.Names.RealText(response.Token) // two JWTs of one second are the same
	says, err := readToken(token)
	if err != nil {
		a.broke("token: %v", err)
	}
	a.set("token", says)
	t.Names.BindText(l.Token, token)
	response.Token = l.Token
	return a
}

func (l Login) String() string { return fmt.Sprintf("login of %q for %s", l.Name, l.Token) }

var simpleToken = regexp.MustCompile(`^[a-zA-Z]{16}\.[0-9]+$`)

// readToken tells what a token says to whoever reads it, the moment it ends aside.
func readToken(token string) (string, error) {
	if simpleToken.MatchString(token) {
		return "simple", nil
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%d parts, want 16 letters and a number, or a JWT's three parts", len(parts))
	}
	var said [2]map[string]any
	for i := range said {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return "", fmt.Errorf("part %d: %w", i, err)
		}
		if err := json.Unmarshal(text, &said[i]); err != nil {
			return "", fmt.Errorf("part %d: %w", i, err)
		}
	}
	if _, ok := said[1]["exp"].(float64); !ok {
		return "", fmt.Errorf("claims %v have no end", said[1])
	}
	delete(said[1], "exp")
	return fmt.Sprint(said[0], said[1]), nil
}
