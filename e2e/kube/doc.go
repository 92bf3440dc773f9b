// Package kube answers one question: does a real Kubernetes live on this store?
//
// It starts the real kube-apiserver and kube-controller-manager on one store
// member and plays stories on them: objects are written, listed in pages,
// watched, patched, expired, compacted and collected, and the store is killed
// underneath. There is no kubelet and no scheduler, so Pods stay objects; but for
// those of limpet itself: the manifests in deploy/kubernetes are applied with the
// real kubectl, and what the controllers make of them is run.
//
// The nouns: [Binaries] are the programs, built here from their Go modules.
// A [Process] is one of them running. The [Store] is limpet, or the real etcd,
// behind the same flags. A [Cluster] is store, API server and controller
// manager together with a client. A node is kubelet, container runtime, network and
// DNS for the Pods of one namespace: each is a process with a network namespace, a
// root folder and an address of its own. The stories are the tests.
//
// What every story relies on:
//
//  1. All listeners are on 127.0.0.1, on ports that were free a moment before, or in
//     network namespaces, which end with the test binary, as the Pods' mounts do.
//  2. No process outlives the test binary, even one that was killed.
//  3. Waiting is a condition with a deadline ([Until]); nothing sleeps to be
//     in time.
//  4. After each story the logs are searched: no panic and no watch event
//     without its previous value in the API server, no line of level error in
//     the store.
//
// Run all, or one, or all on etcd; the first run builds Kubernetes and needs the
// longer timeout. TestGuide and TestOverlaysGrow need Linux, root and the Debian
// packages iproute2 and nftables:
//
//	go test -count=1 -timeout 45m ./...
//	go test -count=1 -v -run TestStoreIsKilledUnderneath .
//	STORE=etcd go test -count=1 -v .
//
// Environment:
//
//	STORE=etcd             run on the real etcd, to tell a fault of limpet from one of a story
//	LIMPET_BIN             the limpet to test instead of one built from this repository
//	LIMPET_E2E_BIN         where built programs are kept (.cache/bin of this repository)
//	LIMPET_E2E_RUN         keep data, keys and logs of the run here (else a temporary folder, kept on failure)
//	LIMPET_E2E_CONFIGMAPS  how many ConfigMaps the list stories write (3000)
//	LIMPET_E2E_PODS        how many Pods are created (2000)
//	LIMPET_E2E_EVENTS      how many Events are left to expire (1500)
//	LIMPET_E2E_KILLS       how often the store is killed (5)
//
// This is a module of its own, apart from the one above, so that Kubernetes is
// built with the dependencies it was released with; that is also why processes
// are handled here a second time. What the store does without Kubernetes is left
// to the module above.
package kube
