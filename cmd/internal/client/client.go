// Package client speaks Crucible's API. Errors of the API come back as
// *eval.Error with their kind; what cannot be reached is [Unreachable].
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/crucible-eval/crucible/pkg/problem"
)

// Client is a connection to an API. Its methods may be used by many at once.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// New returns a client of the API at base, such as http://127.0.0.1:8080.
// token may be empty. connections is how many are kept open for reuse.
func New(base, token string, connections int) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("the API's address %q is not an http or https URL: use one such as http://127.0.0.1:8080", base)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = max(connections, 2)
	return &Client{base: u, token: token, http: &http.Client{Transport: transport}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// URL is the API's address with a path.
func (c *Client) URL(path string) string { return strings.TrimSuffix(c.base.String(), "/") + path }

// Unreachable says that no API answers.
type Unreachable struct {
	URL string
	Err error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("the API at %s cannot be reached: %v\nstart one with: crucible up\nor name another with --url or CRUCIBLE_URL", e.URL, e.Err)
}

func (e *Unreachable) Unwrap() error { return e.Err }

// do sends a request and returns the answer when it is a success.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any, header http.Header) (*http.Response, error) {
	target := c.URL(path)
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var content io.Reader
	if body != nil {
		raw, ok := body.([]byte)
		if !ok {
			var err error
			if raw, err = json.Marshal(body); err != nil {
				return nil, fmt.Errorf("request for %s: %w", path, err)
			}
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return nil, &Unreachable{URL: c.base.String(), Err: err}
	}
	if resp.StatusCode >= 300 {
		defer closeBody(resp)
		return nil, problem.Decode(resp)
	}
	return resp, nil
}

// call sends a request and decodes the answer into out, which may be nil or
// a *json.RawMessage.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	resp, err := c.do(ctx, method, path, query, body, nil)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("the answer of %s %s cannot be read; does the server have the version of this program?: %w", method, path, err)
	}
	return nil
}

// closeBody reads what is left of a short body, so that the connection can
// be used again.
func closeBody(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}
