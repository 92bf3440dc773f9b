package server

import (
	"context"
	"net/http"
	"strings"
	"testing"
)

// Who waits for keys of v2, and which keys have run out, is in the figures that
// etcd has for them.
func TestV2Metrics(t *testing.T) {
	m := start(t, newConfig(t))
	at := m.cfg.ListenClientURLs[0]
	shows := func(line string) func() bool {
		return func() bool { _, body := httpGet(t, at+"/metrics"); return strings.Contains(body, "\n"+line+"\n") }
	}
	eventually(t, "nobody waits", shows("etcd_debugging_store_watchers 0"))
	ctx, cancel := context.WithCancel(t.Context())
	ask := func(ctx context.Context, method, query string) *http.Response {
		r, err := http.NewRequestWithContext(ctx, method, at+"/v2/keys/"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	waiting := ask(ctx, http.MethodGet, "b?wait=true") // the headers come at once
	eventually(t, "one waits", shows("etcd_debugging_store_watchers 1"))
	cancel()
	_ = waiting.Body.Close()
	eventually(t, "it has gone", shows("etcd_debugging_store_watchers 0"))

	_ = ask(t.Context(), http.MethodPut, "a?value=1&ttl=0").Body.Close()
	eventually(t, "a key has run out", shows("etcd_debugging_store_expires_total 1"))
}
