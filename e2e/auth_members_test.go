package e2e

import (
	"fmt"
	"testing"

	"limpet/e2e/side"
)

// TestAuthMembers has root change the members of a cluster, and move its leader.
func TestAuthMembers(t *testing.T) {
	t.Parallel()
	s := newStage(t, 3)
	peopled(s)
	// For some seconds the members will not have their number changed.
	s.At(1).Await(as("<root>", memberAdd(0, true, side.PeerURL(2))), says(peerURLsExist))
	for i, token := range callers {
		n, url := 4+i, fmt.Sprintf("http://127.0.0.9:%d", 4+i) // etcd makes one ID of one URL within a second
		for _, step := range []side.Step{
			memberAdd(n, true, url), memberUpdate(n, url, url+"0"), memberPromote(n), memberList(true), memberRemove(n), memberList(false),
		} {
			s.At(1).Do(as(token, step))
		}
	}
	for _, token := range callers {
		s.At(1).Do(as(token, moveLeader(2)))
		s.At(1).Do(as(token, moveLeader(nobody)))
	}
}
