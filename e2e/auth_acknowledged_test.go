package e2e

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestAuthAcknowledged takes a right away and gives it back at one member, and logs in there. Once it
// was told so, the others know. (With etcd a token is not always known at once.)
func TestAuthAcknowledged(t *testing.T) {
	t.Parallel()
	needsLimpet(t)
	c := side.Found(t, proc.Limpet, 3, cheapHash)
	if err := c.Lead(1, 2, 3); err != nil {
		t.Fatal(err)
	}
	do := func(n int, token string, step side.Step, want codes.Code) {
		t.Helper()
		if a := as(token, step).Run(context.Background(), c.Member(n)); a.Code != want {
			t.Errorf("m%d, as %q, %s: got %s, want %v", n, token, step, a, want)
		}
	}
	for _, step := range []side.Step{
		userAdd("root", "pw"), grantRole("root", "root"), userAdd("alice", "pw"), roleAdd("app"), permit("app", mayBoth, "a", ""), grantRole("alice", "app"),
		authEnable(), side.Login{Name: "root", Password: "pw", Token: "<root>"}, side.Login{Name: "alice", Password: "pw", Token: "<alice>"},
	} {
		do(1, "", step, codes.OK)
	}
	const rounds = 300
	for i := range rounds {
		want := []codes.Code{codes.PermissionDenied, codes.OK}[i%2]
		do(2, "<root>", []side.Step{forbid("app", "a", ""), permit("app", mayBoth, "a", "")}[i%2], codes.OK)
		for _, n := range []int{1, 3} {
			do(n, "<alice>", get("a"), want)
			do(n, "<alice>", side.Stream{Request: &pb.RangeRequest{Key: []byte("a")}}, want)
		}
		token := tokenName("alice in round", i)
		do(3, "", side.Login{Name: "alice", Password: "pw", Token: token}, codes.OK)
		do(1, token, put("a", "v"), want)
		do(2, token, userGet("alice"), codes.OK)
	}
}
