package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"limpet/e2e/proc"
)

// secrets are what nobody may find anywhere, by name; a session adds those that it is given. What
// is to stay secret from now on is one more line here.
func secrets(jwtKey string) map[string]string {
	return map[string]string{
		"the cluster's token":          "5eC7e7f00dFACade0ff1ceC0ffee1234",
		"another member's token":       "0123456789abcdef5ca1ab1e5ca1ab1e",
		"root's password":              "root-Correct-Horse-77",
		"a password that is wrong":     "root-Battery-Staple-88",
		"a user's new password":        "ann-Changed-It-99",
		"a hash given for a password":  base64.StdEncoding.EncodeToString([]byte("$2a$04$hashThatNobodySeesHashThatNobodySeesHashThatNobod")),
		"the key that signs logins":    jwtKey,
		"a login that nobody has made": "gArBaGeToKeN.1",
	}
}

// forms are the ways in which a secret may be written down.
func forms(secret string) []string {
	out := []string{secret, strings.ToLower(secret), fmt.Sprintf("%q", secret), hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))}
	if raw, err := hex.DecodeString(secret); err == nil {
		out = append(out, string(raw), base64.StdEncoding.EncodeToString(raw), strings.Trim(fmt.Sprint(raw), "[]"))
	}
	return out
}

// A session with a token, users, passwords and logins, good and bad, leaves none of them in the log,
// in what the member tells over HTTP, in an error, in the list of processes, in a file that others
// may read, in the database, or in the raft log.
func TestSecretsStaySecret(t *testing.T) {
	needsLimpet(t)
	for _, way := range []string{"a flag", "a variable", "a file", "a file that a variable names"} {
		for _, logins := range []string{"simple", "jwt"} {
			t.Run(fmt.Sprintf("token in %s and logins %s", way, logins), func(t *testing.T) { keepSecrets(t, way, logins) })
		}
	}
}

func keepSecrets(t *testing.T, way, logins string) {
	folder := t.TempDir()
	private := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	hidden := secrets("hmac-Key-Of-This-Cluster-1234567")
	peer := "https://" + proc.FreeAddr(t)
	flags := []string{
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=m1=" + peer,
		"--gossip-address=127.0.0.1:0", "--log-level=debug", "--enable-pprof", "--bcrypt-cost=4",
	}
	if logins == "jwt" {
		flags = append(flags, "--auth-token=jwt,sign-method=HS256,priv-key="+private("key", hidden["the key that signs logins"]))
	}
	var vars []string
	token := hidden["the cluster's token"]
	switch way {
	case "a flag":
		flags = append(flags, "--token="+token)
	case "a variable":
		vars = []string{"LIMPET_TOKEN=" + token}
	case "a file":
		flags = append(flags, "--token-file="+private("token", token+"\n"))
	case "a file that a variable names":
		vars = []string{"LIMPET_TOKEN_FILE=" + private("token", token)}
	}
	s := proc.Start(t, subject(), proc.Flags(flags...), proc.Env(vars...))
	found := session(t, s, hidden)
	for _, args := range [][]string{
		{"token", "rotate", "--data-dir=" + s.DataDir},
		{"token", "rotate", "--finish", "--data-dir=" + s.DataDir},
		{"server", "--data-dir=" + s.DataDir, "--token-file=" + private("other", hidden["another member's token"])}, // in use
		{"server", "--data-dir=" + folder + "/x", "--token-file=" + private("short", token[:30])},
		{"server", "--data-dir=" + folder + "/x", "--token-file=" + private("no-hex", hidden["root's password"])},
		{"status", "--endpoints=" + s.ClientURL()},
	} {
		r := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args}.Run(t)
		found["what limpet "+args[0]+" says"] += r.Stdout + r.Stderr
	}
	shown := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: []string{"token", "show", "--data-dir=" + s.DataDir}}.Run(t)
	if hidden["the token that took its place"] = strings.TrimSpace(shown.Stdout); len(hidden["the token that took its place"]) < 32 || strings.EqualFold(shown.Stdout, token+"\n") {
		t.Fatalf("no other token is there: %+v", shown)
	}
	if exit := s.Terminate(patience); exit.Code != 0 {
		t.Errorf("the member ended with %+v", exit)
	}
	found["the log"] = s.Log.Text()
	nowhere(t, found, hidden)
	delete(hidden, "a hash given for a password") // the database keeps those
	nowhere(t, onlyOwners(t, s.DataDir), hidden)
}

// nowhere wants none of the secrets in what was found.
func nowhere(t *testing.T, found, hidden map[string]string) {
	t.Helper()
	for where, text := range found {
		if text == "" {
			t.Errorf("nothing was found in %s", where)
		}
		for what, secret := range hidden {
			for _, form := range forms(secret) {
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("%s is in %s: …%.200q", what, where, text[max(0, i-80):])
					break
				}
			}
		}
	}
}

// session does what has to do with secrets, adds those that come of it to hidden, and returns what
// can be seen of it, by where.
func session(t *testing.T, s *proc.Server, hidden map[string]string) map[string]string {
	t.Helper()
	conn, err := grpc.NewClient(s.Client, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	auth, ctx := pb.NewAuthClient(conn), t.Context()
	var complaints strings.Builder
	good := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	bad := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error", what)
		}
		fmt.Fprintln(&complaints, err)
	}
	_, err = auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: hidden["root's password"]})
	good("add root", err)
	_, err = auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: hidden["root's password"]})
	bad("add root again", err)
	_, err = auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "ann", HashedPassword: hidden["a hash given for a password"]})
	good("add ann", err)
	_, err = auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"})
	good("add the role", err)
	_, err = auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	good("grant the role", err)
	_, err = auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
	good("enable", err)
	login, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: hidden["root's password"]})
	good("log in", err)
	hidden["root's login"], _, _ = strings.Cut(login.Token, ".") // the index of an entry is no secret
	_, err = auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: hidden["a password that is wrong"]})
	bad("log in with a wrong password", err)
	_, err = auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: hidden["a password that is wrong"], Password: "root"})
	bad("log in with the password for a name", err)

	as := func(token string) context.Context { return metadata.AppendToOutgoingContext(ctx, "token", token) }
	_, err = auth.UserChangePassword(as(login.Token), &pb.AuthUserChangePasswordRequest{Name: "ann", Password: hidden["a user's new password"]})
	good("change a password", err)
	_, err = pb.NewKVClient(conn).Put(as(hidden["a login that nobody has made"]), &pb.PutRequest{Key: []byte("k")})
	bad("put without a login", err)
	return look(t, s, login.Token, complaints.String())
}

// look gathers what the member shows to those who may see all.
func look(t *testing.T, s *proc.Server, login, complaints string) map[string]string {
	t.Helper()
	found := map[string]string{"errors": complaints}
	for _, path := range []string{
		"/metrics", "/health", "/version", "/readyz?verbose", "/limpet/v1/cluster", "/debug/vars", "/debug/pprof/", "/debug/pprof/cmdline",
		"/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.ClientURL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", login)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, resp.Status, err)
		}
		found[path] = string(body)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	found["the list of processes"] = string(line)
	return found
}

// onlyOwners wants everything of a data directory to be for its owner alone, whatever the umask,
// and returns what is in the files, but for the one that is there for the token.
func onlyOwners(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others may look into it", path, info.Mode())
		}
		if !info.Mode().IsRegular() || d.Name() == "token" || info.Size() == 0 {
			return nil
		}
		text, err := os.ReadFile(path)
		found[path] = string(text)
		return err
	})
	if err != nil || len(found) < 4 {
		t.Errorf("%d files: %v", len(found), err)
	}
	return found
}
