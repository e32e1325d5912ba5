package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Do runs f on a thread inside the namespace of host and returns its error. See
// the package comment for the limits of f.
func (l *Lab) Do(host string, f func() error) error {
	n, done, err := l.enter(host)
	if err != nil {
		return err
	}
	defer done()
	return onThread(func() error {
		if err := unix.Setns(int(n.ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netlab: enter %s: %w", host, err)
		}
		return f()
	})
}

// Listen listens inside host, as net.Listen does.
func (l *Lab) Listen(host, network, address string) (net.Listener, error) {
	var ln net.Listener
	err := l.Do(host, func() (err error) {
		ln, err = net.Listen(network, address)
		return err
	})
	return ln, err
}

// DialContext returns a dial function for http.Transport that dials inside
// host. Addresses must be literal, because resolving a name would leave the
// thread.
func (l *Lab) DialContext(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return nil, fmt.Errorf("netlab: dial %q: needs a literal address and port: %w", address, err)
		}
		var conn net.Conn
		err := l.Do(host, func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// Process is a command that runs inside a host.
type Process struct {
	lab  *Lab
	cmd  *exec.Cmd
	once sync.Once
	err  error
}

// Start starts cmd inside host. The process is killed when the lab is closed
// or this process dies.
func (l *Lab) Start(host string, cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p := &Process{lab: l, cmd: cmd}
	if err := l.hold(host, p); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.procs == nil {
		l.mu.Unlock()
		p.kill()
		return nil, ErrClosed
	}
	l.procs[p] = struct{}{}
	l.mu.Unlock()
	return p, nil
}

// hold starts the process from a thread in the namespace, which the child
// inherits. The thread stays until the process has ended, because the kernel
// sends the parent death signal when the thread that forked ends.
func (l *Lab) hold(host string, p *Process) error {
	started := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := l.Do(host, func() error {
			err := p.cmd.Start()
			started <- err
			if err == nil {
				p.wait()
			}
			return err
		})
		if err != nil {
			select {
			case started <- err: // Do failed before it ran the function
			default:
			}
		}
	}()
	err := <-started
	if err != nil {
		<-ended
		return fmt.Errorf("netlab: start %s in %s: %w", p.cmd.Path, host, err)
	}
	return nil
}

func (p *Process) wait() {
	p.once.Do(func() { p.err = p.cmd.Wait() })
}

// Wait waits for the end of the process and returns the result of
// exec.Cmd.Wait.
func (p *Process) Wait() error {
	p.wait()
	p.lab.mu.Lock()
	delete(p.lab.procs, p)
	p.lab.mu.Unlock()
	return p.err
}

// Signal sends a signal to the process.
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

func (p *Process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	p.wait()
}

// Run starts cmd inside host and waits for it.
func (l *Lab) Run(ctx context.Context, host string, cmd *exec.Cmd) error {
	p, err := l.Start(host, cmd)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	err = p.Wait()
	return errors.Join(context.Cause(ctx), err)
}
