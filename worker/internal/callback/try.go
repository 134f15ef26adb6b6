package callback

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// maxAnswer is how much of an answer is read, so that its connection can be
	// used again; what it says does not matter.
	maxAnswer = 4 << 10
	// maxDetail bounds what the words of others add to a message.
	maxDetail = 200
)

// try sends the callback once. An error means that the evaluation could not
// be read, so that nothing was sent.
func (d *Deliverer) try(ctx context.Context, c eval.Callback) (eval.Delivery, error) {
	// What is allowed may have changed since the URL was accepted.
	if problem := d.deps.Check(c.URL); problem != "" {
		return eval.Delivery{Reason: eval.CallbackRefused, Message: "the URL " + problem}, nil
	}
	read, cancel := context.WithTimeout(ctx, patience)
	e, err := d.deps.Store.Get(read, c.Key)
	cancel()
	switch {
	case eval.IsKind(err, eval.KindNotFound):
		return eval.Delivery{Reason: eval.CallbackForgotten, Message: "the evaluation is not kept any more"}, nil
	case err != nil:
		return eval.Delivery{}, err
	}
	body, err := d.deps.Payload(e)
	if err != nil {
		return eval.Delivery{}, err
	}
	ctx, cancel = context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, bytes.NewReader(body))
	if err != nil {
		return eval.Delivery{Reason: eval.CallbackRefused, Message: "the URL cannot be used"}, nil
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", d.userAgent())
	if err := d.deps.Sign.sign(request.Header, string(c.ID), time.Now(), body); err != nil {
		return eval.Delivery{}, err
	}
	answer, err := d.deps.Client.Do(request)
	if err != nil {
		return d.failure(err), nil
	}
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer)
	_ = answer.Body.Close()
	return judge(answer, time.Now()), nil
}

// judge says what an answer means. Only 2xx is success; 410 means that the
// receiver wants no more.
func judge(answer *http.Response, now time.Time) eval.Delivery {
	code := answer.StatusCode
	d := eval.Delivery{HTTPStatus: code, Message: fmt.Sprintf("the receiver answered %d %s", code, http.StatusText(code))}
	switch {
	case code/100 == 2:
		return eval.Delivery{HTTPStatus: code}
	case code == http.StatusGone:
		d.Reason = eval.CallbackGone
	case code/100 == 3:
		d.Reason = eval.CallbackRedirect
		d.Message += "; redirects are not followed: give the URL that it leads to"
	case code/100 == 4:
		d.Reason = eval.CallbackRejected
	default:
		d.Reason = eval.CallbackBroken
	}
	d.RetryAfter = retryAfter(answer.Header.Get("Retry-After"), now)
	return d
}

// retryAfter reads the header of that name: seconds, or a date. 0: not given.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(max(seconds, 0), int(eval.MaxCallbackDelay/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// failure sorts the error of a request that got no answer. Its words name no
// URL and no address: those may be secrets, and who reads them is a client.
func (d *Deliverer) failure(err error) eval.Delivery {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL
	}
	dns, isDNS := errors.AsType[*net.DNSError](err)
	certificate, isCertificate := errors.AsType[*tls.CertificateVerificationError](err)
	alert, isAlert := errors.AsType[tls.AlertError](err)
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	timeout, isNet := errors.AsType[net.Error](err)
	errno, isErrno := errors.AsType[syscall.Errno](err)
	say := func(reason eval.CallbackReason, format string, args ...any) eval.Delivery {
		message := fmt.Sprintf(format, args...)
		return eval.Delivery{Reason: reason, Message: message[:min(len(message), maxDetail)]}
	}
	switch {
	case errors.Is(err, egress.ErrRefused):
		return say(eval.CallbackRefused, "the host is not public; the operator may allow it with --callback-allow")
	case isDNS && !dns.IsTimeout:
		return say(eval.CallbackDNS, "the host's name could not be resolved")
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return say(eval.CallbackTimeout, "no answer within %s", d.cfg.Timeout)
	case isCertificate:
		return say(eval.CallbackTLS, "the certificate is not trusted: %v", certificate.Err)
	case isAlert:
		return say(eval.CallbackTLS, "TLS failed: %v", alert)
	case isRecord, errors.Is(err, http.ErrSchemeMismatch):
		return say(eval.CallbackTLS, "the port does not speak TLS")
	case isErrno:
		return say(eval.CallbackConnect, "the connection failed: %v", errno)
	default:
		return say(eval.CallbackConnect, "the connection ended before there was an answer")
	}
}
