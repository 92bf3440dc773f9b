package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
	"k8s.io/utils/ptr"
)

// again is the pause before a container is started once more; a kubelet's grows
// from ten seconds to five minutes.
const again = time.Second

// pod is a Pod with one container as a kubelet runs it.
type pod struct {
	node    *node
	spec    *corev1.Pod
	volumes map[string]string // of its claims, by name
	env     []string
	log     *os.File
	fenced  string // the fence that stands

	box     atomic.Pointer[sandbox]
	process atomic.Pointer[Process] // the newest, nil: not started yet
	fence   atomic.Pointer[string]  // as it should be, nil: not known yet

	ready    bool
	restarts int32
	said     string // the status last told

	once  sync.Once
	grace chan time.Duration // holds one: the Pod is deleted
	done  chan struct{}      // closed when nothing of it runs any more
}

func newPod(n *node, spec *corev1.Pod, claims map[string]string) *pod {
	return &pod{node: n, spec: spec, volumes: claims, grace: make(chan time.Duration, 1), done: make(chan struct{})}
}

// end has the Pod end within its grace.
func (p *pod) end(grace time.Duration) { p.once.Do(func() { p.grace <- grace }) }

func (p *pod) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *pod) container() *corev1.Container { return &p.spec.Spec.Containers[0] }

// run runs the Pod until it is deleted, or ctx ends.
func (p *pod) run(ctx context.Context) {
	defer close(p.done)
	defer p.clear()
	if err := p.supported(); err != nil {
		p.node.report(err.Error())
		return
	}
	readiness, liveness := newProber(p.container().ReadinessProbe), newProber(p.container().LivenessProbe)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var tried time.Time // when it was last started
	var why error       // it could not be
	for {
		select {
		case <-ctx.Done():
			return
		case grace := <-p.grace:
			p.stop(ctx, grace)
			return
		case <-ticker.C:
		}
		if err := p.setFence(); err != nil {
			p.node.report(fmt.Sprintf("the fence of %s: %v", p.spec.Name, err))
			return
		}
		switch process := p.process.Load(); {
		case process != nil && process.Alive():
			p.ready = readiness.look(ctx, p) // a Pod is not ready until it has said so
			if !liveness.look(ctx, p) && liveness.failed {
				process.Kill()
			}
		case time.Since(tried) >= again:
			tried, p.ready = time.Now(), false
			readiness.begin()
			liveness.begin()
			why = p.start(ctx)
		}
		p.tell(ctx, why)
	}
}

// clear takes away what runs.
func (p *pod) clear() {
	if process := p.process.Load(); process != nil {
		process.Kill()
	}
	if p.log != nil {
		p.log.Close()
	}
	if box := p.box.Load(); box != nil {
		if err := box.close(); err != nil {
			p.node.report(fmt.Sprintf("the sandbox of %s: %v", p.spec.Name, err))
		}
	}
}

// setFence has the Pod's namespace let through what the policies do now.
func (p *pod) setFence() error {
	box, want := p.box.Load(), p.fence.Load()
	if box == nil || want == nil || *want == p.fenced {
		return nil
	}
	p.fenced = *want
	return box.net.nft(*want)
}

// supported finds what a kubelet would do and this one cannot: a manifest that asks
// for it must not seem to work.
func (p *pod) supported() error {
	s, c := &p.spec.Spec, p.container()
	switch {
	case len(s.Containers) > 1 || len(s.InitContainers) > 0:
		return fmt.Errorf("%s has several containers", p.spec.Name)
	case c.Lifecycle != nil || c.StartupProbe != nil || len(c.EnvFrom) > 0 || s.HostNetwork || c.WorkingDir != "":
		return fmt.Errorf("%s asks for what this node has not got", p.spec.Name)
	case s.EnableServiceLinks == nil || *s.EnableServiceLinks:
		return fmt.Errorf("%s wants variables for Services", p.spec.Name)
	}
	return nil
}

// start makes the sandbox, at the first time, and starts the container.
func (p *pod) start(ctx context.Context) (err error) {
	if p.fence.Load() == nil {
		return errors.New("the policies are not known yet")
	}
	if p.box.Load() == nil {
		if p.env, err = p.environment(ctx); err != nil {
			return err
		}
		box, err := p.makeSandbox()
		if err != nil {
			return err
		}
		if p.box.Store(box); p.setFence() != nil {
			return errors.New("the policies cannot be kept")
		}
	}
	if p.log == nil {
		if p.log, err = os.OpenFile(p.logFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
			return err
		}
	}
	cmd, err := p.box.Load().command(slices.Concat(p.container().Command, p.container().Args), p.env)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if p.process.Load() != nil {
		p.restarts++
	}
	process, err := startCommand(p.spec.Name, p.logFile(), cmd, p.box.Load().start)
	if err == nil {
		p.process.Store(process)
	}
	return err
}

func (p *pod) logFile() string { return filepath.Join(p.node.dir, p.spec.Name+".log") }

func (p *pod) makeSandbox() (*sandbox, error) {
	security, of := p.container().SecurityContext, p.spec.Spec.SecurityContext
	if security == nil || of == nil || of.RunAsUser == nil || of.RunAsGroup == nil || of.FSGroup == nil {
		return nil, errors.New("it does not say as whom it runs")
	}
	spec := sandboxSpec{
		name: p.spec.Name, namespace: p.spec.Namespace, folder: filepath.Join(p.node.dir, "pods", string(p.spec.UID)),
		program: p.node.program, volumes: map[string]string{}, readOnly: ptr.Deref(security.ReadOnlyRootFilesystem, false),
		user: &syscall.Credential{Uid: uint32(*of.RunAsUser), Gid: uint32(*of.RunAsGroup), Groups: []uint32{uint32(*of.FSGroup)}},
	}
	for _, m := range p.container().VolumeMounts {
		i := slices.IndexFunc(p.spec.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		claim := p.spec.Spec.Volumes[i].PersistentVolumeClaim
		if claim == nil || m.SubPath != "" {
			return nil, fmt.Errorf("volume %s is no claim", m.Name)
		}
		folder := p.volumes[claim.ClaimName]
		if folder == "" {
			return nil, fmt.Errorf("claim %s is not there", claim.ClaimName)
		}
		// As a new file system is: of root, with lost+found; fsGroup lets the group in.
		if err := os.MkdirAll(filepath.Join(folder, "lost+found"), 0o700); err != nil {
			return nil, err
		}
		if err := errors.Join(os.Chown(folder, 0, int(*of.FSGroup)), os.Chmod(folder, 0o775|os.ModeSetgid)); err != nil {
			return nil, err
		}
		spec.volumes[m.MountPath] = folder
	}
	return newSandbox(p.node.net, spec)
}

// environment is that of the container, in a kubelet's order.
func (p *pod) environment(ctx context.Context) ([]string, error) {
	var env []string
	values := map[string]string{}
	for _, e := range p.container().Env {
		value := expansion.Expand(e.Value, expansion.MappingFuncFor(values))
		switch from := e.ValueFrom; {
		case from == nil:
		case from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.name":
			value = p.spec.Name
		case from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.namespace":
			value = p.spec.Namespace
		case from.SecretKeyRef != nil:
			secret, err := p.node.c.Client.CoreV1().Secrets(p.spec.Namespace).Get(ctx, from.SecretKeyRef.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			text, ok := secret.Data[from.SecretKeyRef.Key]
			if !ok {
				return nil, fmt.Errorf("secret %s has no key %s", secret.Name, from.SecretKeyRef.Key)
			}
			value = string(text)
		default:
			return nil, fmt.Errorf("variable %s comes from what this node does not know", e.Name)
		}
		if strings.Contains(value, "$(") {
			return nil, fmt.Errorf("variable %s is %s: what it means is not above it", e.Name, value)
		}
		values[e.Name] = value
		env = append(env, e.Name+"="+value)
	}
	return env, nil
}

// stop ends the container as a kubelet does, and then tells that it is gone.
func (p *pod) stop(ctx context.Context, grace time.Duration) {
	if process := p.process.Load(); process != nil && process.Alive() {
		if err := process.Stop(grace); errors.Is(err, errStillRunning) && grace > 0 {
			p.node.report(fmt.Sprintf("%s did not end within %v of SIGTERM", p.spec.Name, grace))
		}
	}
	now := int64(0)
	// Nothing is lost by an error: it is there, on its way out, at the next look.
	_ = Until(ctx, readyDeadline, func(ctx context.Context) error {
		err := p.node.c.Client.CoreV1().Pods(p.spec.Namespace).Delete(ctx, p.spec.Name,
			metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &p.spec.UID}})
		return ignoreGone(err)
	})
}

// tell tells the API server how the Pod is, if that is news; why is why its container
// could not be started.
func (p *pod) tell(ctx context.Context, why error) {
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	if process := p.process.Load(); process == nil || !process.Alive() {
		state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	}
	if why != nil {
		state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: why.Error()}}
	}
	status := corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
		Name: p.container().Name, Image: p.container().Image, Ready: p.ready, RestartCount: p.restarts, State: state,
	}}}
	if box := p.box.Load(); box == nil {
		status.Phase = corev1.PodPending
	} else {
		status.PodIP = box.ip.String()
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	}
	is := corev1.ConditionFalse
	if p.ready {
		is = corev1.ConditionTrue
	}
	for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: c, Status: is})
	}
	said, _ := json.Marshal(status) // structs of strings cannot fail
	if string(said) == p.said {
		return
	}
	now := metav1.Now()
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = now
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.spec.UID}, "status": status})
	_, err := p.node.c.Client.CoreV1().Pods(p.spec.Namespace).Patch(ctx, p.spec.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err == nil {
		p.said = string(said) // else it is told again
	}
}

// exec runs a command in the container, as kubectl exec does.
func (p *pod) exec(argv []string, with func(*exec.Cmd)) error {
	box := p.box.Load()
	if box == nil {
		return errors.New("the container is not running")
	}
	cmd, err := box.command(argv, p.env)
	if err != nil {
		return err
	}
	with(cmd)
	if err := box.start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// prober asks a container how it is.
type prober struct {
	probe    *corev1.Probe
	last     time.Time
	well     bool
	failures int32
	answered bool // well at least once since the container's start
	failed   bool // FailureThreshold was reached
}

func newProber(probe *corev1.Probe) *prober { return &prober{probe: probe} }

// begin forgets what was before the container's start.
func (r *prober) begin() { *r = prober{probe: r.probe} }

// look asks if it is time to, and returns whether the container is well. Until it
// was well once it is asked more often than the manifest says, to save time.
func (r *prober) look(ctx context.Context, p *pod) bool {
	period := time.Duration(r.probe.PeriodSeconds) * time.Second
	if !r.answered {
		period = min(period, 10*pollInterval)
	}
	if time.Since(r.last) < period {
		return r.well
	}
	err := r.ask(ctx, p)
	r.last = time.Now()
	if err == nil {
		r.well, r.answered, r.failed, r.failures = true, true, false, 0
	} else if r.failures++; r.failures >= r.probe.FailureThreshold {
		r.well, r.failed = false, r.answered
	}
	return r.well
}

// ask is the GET.
func (r *prober) ask(ctx context.Context, p *pod) error {
	get, port := r.probe.HTTPGet, r.probe.HTTPGet.Port.IntValue()
	if get.Port.Type == intstr.String {
		i := slices.IndexFunc(p.container().Ports, func(c corev1.ContainerPort) bool { return c.Name == get.Port.StrVal })
		if i < 0 {
			return fmt.Errorf("the container has no port %s", get.Port.StrVal)
		}
		port = int(p.container().Ports[i].ContainerPort)
	}
	timeout := time.Duration(r.probe.TimeoutSeconds) * time.Second
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: p.node.net.hub.DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d%s", p.box.Load().ip, port, get.Path), nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= 400 || response.StatusCode < 200 {
		return fmt.Errorf("%s: %s", request.URL, response.Status)
	}
	return nil
}
