package v2

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"limpet/api"
	"limpet/txn"
)

const (
	membersPath  = "/v2/members"
	machinesPath = "/v2/machines"
)

// maxBody bounds a body that is JSON, in bytes.
const maxBody = 1 << 20

// member is one as the v2 API shows it (etcd httptypes.Member).
type member struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

func showMember(m *txn.Member) member {
	return member{hex(m.ID), m.Name, list(m.PeerURLs), list(m.ClientURLs)}
}

func hex(id uint64) string { return strconv.FormatUint(id, 16) }

// list is s, and not null in JSON.
func list(s []string) []string { return append([]string{}, s...) }

// members serves membersPath and what is below (etcd membersHandler).
func (f *Face) members(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodPut) {
		return
	}
	if r.Method != http.MethodGet {
		if _, ok := f.root(w, r); !ok {
			return
		}
	}
	f.sign(w)
	below := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, membersPath), "/")
	switch r.Method {
	case http.MethodGet:
		f.showMembers(w, below)
	case http.MethodPost:
		f.addMember(w, r)
	case http.MethodDelete:
		if id, ok := memberID(w, below); ok {
			f.removeMember(w, r, id)
		}
	case http.MethodPut:
		if id, ok := memberID(w, below); ok {
			f.updateMember(w, r, id)
		}
	}
}

func (f *Face) showMembers(w http.ResponseWriter, below string) {
	now := f.cfg.Node.Membership()
	switch below {
	case "":
		all := make([]member, len(now.Members))
		for i, m := range now.Members {
			all[i] = showMember(m)
		}
		writeJSON(w, http.StatusOK, map[string][]member{"members": all})
	case "leader":
		m := now.Member(f.cfg.Node.Leader())
		if m == nil {
			writeMessage(w, http.StatusServiceUnavailable, "During election")
			return
		}
		writeJSON(w, http.StatusOK, showMember(m))
	default: // also an ID
		writeMessage(w, http.StatusNotFound, "Not found")
	}
}

func (f *Face) addMember(w http.ResponseWriter, r *http.Request) {
	urls, ok := readPeerURLs(w, r)
	if !ok {
		return
	}
	ctx, cancel := f.patience(r)
	defer cancel()
	resp, err := f.cfg.API.AddMember(ctx, &pb.MemberAddRequest{PeerURLs: urls})
	if err != nil {
		f.memberError(w, r, 0, err)
		return
	}
	writeJSON(w, http.StatusCreated, member{ID: hex(resp.Member.ID), PeerURLs: urls, ClientURLs: []string{}})
}

func (f *Face) removeMember(w http.ResponseWriter, r *http.Request, id uint64) {
	if f.cfg.Node.Membership().WasRemoved(id) {
		writeMessage(w, http.StatusGone, "Member permanently removed: "+hex(id))
		return
	}
	ctx, cancel := f.patience(r)
	defer cancel()
	if _, err := f.cfg.API.RemoveMember(ctx, &pb.MemberRemoveRequest{ID: id}); err != nil {
		f.memberError(w, r, id, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (f *Face) updateMember(w http.ResponseWriter, r *http.Request, id uint64) {
	urls, ok := readPeerURLs(w, r)
	if !ok {
		return
	}
	ctx, cancel := f.patience(r)
	defer cancel()
	if _, err := f.cfg.API.UpdateMember(ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: urls}); err != nil {
		f.memberError(w, r, id, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// memberError answers a change of members that was refused.
func (f *Face) memberError(w http.ResponseWriter, r *http.Request, id uint64, err error) {
	switch {
	case errors.Is(err, rpctypes.ErrGRPCPeerURLExist):
		writeMessage(w, http.StatusConflict, "membership: peerURL exists")
	case errors.Is(err, rpctypes.ErrGRPCMemberNotFound):
		writeMessage(w, http.StatusNotFound, "No such member: "+hex(id))
	default:
		f.fail(w, r, err)
	}
}

// memberID reads an ID from a path; else it answers the request.
func memberID(w http.ResponseWriter, text string) (uint64, bool) {
	if text == "" {
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return 0, false
	}
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		writeMessage(w, http.StatusNotFound, "No such member: "+text)
		return 0, false
	}
	return id, true
}

// readPeerURLs reads the body of a change of members; else it answers r (etcd
// unmarshalRequest).
func readPeerURLs(w http.ResponseWriter, r *http.Request) ([]string, bool) {
	kind, _, parameters := strings.Cut(r.Header.Get("Content-Type"), ";")
	if parameters { // etcd looks at the case only then
		kind = strings.TrimSpace(strings.ToLower(kind))
	}
	if kind != "application/json" {
		writeMessage(w, http.StatusUnsupportedMediaType, fmt.Sprintf("Bad Content-Type %s, accept application/json", kind))
		return nil, false
	}
	var in struct {
		PeerURLs []string `json:"peerURLs"`
	}
	data, err := body(w, r)
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	var urls []string
	if err == nil {
		urls, err = api.PeerURLs(in.PeerURLs)
	}
	if err != nil {
		writeMessage(w, http.StatusBadRequest, err.Error())
		return nil, false
	}
	return urls, true
}

// machines serves machinesPath: where clients find the members.
func (f *Face) machines(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodGet, http.MethodHead) {
		return
	}
	var urls []string
	for _, m := range f.cfg.Node.Membership().Members {
		urls = append(urls, m.ClientURLs...)
	}
	slices.Sort(urls)
	_, _ = io.WriteString(w, strings.Join(urls, ", ")) // a client that has gone learns nothing
}
