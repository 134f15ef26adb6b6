//go:build chaos && linux

package chaos_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy is a network between two parts, for us to break: it can cut its
// connections, hold back what they carry, and delay it.
type proxy struct {
	listener net.Listener
	target   string
	done     sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.TCPConn]struct{}
	held  chan struct{} // closed when data may pass
	delay time.Duration
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{listener: listener, target: target, conns: map[*net.TCPConn]struct{}{}, held: make(chan struct{})}
	close(p.held)
	p.done.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) close() {
	_ = p.listener.Close()
	p.release()
	p.cut()
	p.done.Wait()
}

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.done.Go(func() { p.serve(conn.(*net.TCPConn)) })
	}
}

func (p *proxy) serve(from *net.TCPConn) {
	defer p.drop(from)
	p.keep(from)
	p.pass() // a held network does not even connect
	conn, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		return
	}
	to := conn.(*net.TCPConn)
	defer p.drop(to)
	p.keep(to)
	var back sync.WaitGroup
	back.Go(func() { p.copy(from, to) })
	p.copy(to, from)
	back.Wait()
}

// copy carries bytes until one side ends, and ends the other side's half.
func (p *proxy) copy(to, from *net.TCPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			time.Sleep(p.pass()) // the delay is what this network is for
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = to.CloseWrite()
	_ = from.CloseRead()
}

// pass waits while the network is held, and returns its delay.
func (p *proxy) pass() time.Duration {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	<-held
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

func (p *proxy) keep(c *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

func (p *proxy) drop(c *net.TCPConn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// cut resets all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.SetLinger(0) // a reset, not an end in good order
		_ = c.Close()
	}
}

// hold lets nothing through until release; connections stay open.
func (p *proxy) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = make(chan struct{})
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.held:
	default:
		close(p.held)
	}
}

// slow delays everything that passes, in each direction.
func (p *proxy) slow(by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = by
}
