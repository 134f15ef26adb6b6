package eval

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Callback is the delivery of an evaluation that has ended to the URL that its
// client gave with it, [Spec].CallbackURL. It is written in the transaction of
// the end, so none is forgotten, and there is one for each evaluation.
//
// It is delivered at least once: a deliverer that dies after the receiver has
// answered leaves it to another. The evaluation's id comes with every try, so
// that a receiver can tell.
type Callback struct {
	Key
	URL       string         `json:"url"`
	Host      string         `json:"host"` // of URL, in lower case: all that a log may say of it
	Status    CallbackStatus `json:"status"`
	Tries     int            `json:"tries"`     // begun; grows with each and fences late deliverers
	MaxTries  int            `json:"max_tries"` // after so many without success it is dead
	Deliverer string         `json:"deliverer,omitempty"`
	// NextAt is when a pending one is due. While a deliverer holds it, that is
	// when the deliverer is taken for lost.
	NextAt *time.Time `json:"next_at,omitempty"`

	// Of the last try that has ended.
	Reason     CallbackReason `json:"reason,omitempty"`      // why it did not succeed
	Message    string         `json:"message,omitempty"`     // the same in words
	HTTPStatus int            `json:"http_status,omitempty"` // of the receiver's answer; 0: there was none

	CreatedAt time.Time  `json:"created_at"`         // when the evaluation ended
	EndedAt   *time.Time `json:"ended_at,omitempty"` // when it was delivered, or given up
}

// CallbackStatus says how far a callback is.
type CallbackStatus string

const (
	CallbackPending   CallbackStatus = "pending"   // waits for its next try, or is being delivered
	CallbackDelivered CallbackStatus = "delivered" // the receiver has answered with 2xx
	CallbackDead      CallbackStatus = "dead"      // given up, until somebody retries it
)

// CallbackStatuses lists every status of a callback.
func CallbackStatuses() []CallbackStatus {
	return []CallbackStatus{CallbackPending, CallbackDelivered, CallbackDead}
}

// CallbackReason sorts what can go wrong with a delivery.
type CallbackReason string

const (
	CallbackRefused   CallbackReason = "refused"   // the URL, or the address behind it, is not allowed
	CallbackDNS       CallbackReason = "dns"       // the host's name could not be resolved
	CallbackConnect   CallbackReason = "connect"   // no connection, or it broke
	CallbackTLS       CallbackReason = "tls"       // the certificate, or another part of TLS
	CallbackTimeout   CallbackReason = "timeout"   // no answer in time
	CallbackRedirect  CallbackReason = "redirect"  // 3xx: redirects are not followed
	CallbackRejected  CallbackReason = "rejected"  // 4xx
	CallbackGone      CallbackReason = "gone"      // 410: the receiver wants no more
	CallbackBroken    CallbackReason = "broken"    // 5xx, or what is no answer of HTTP
	CallbackLost      CallbackReason = "lost"      // its deliverer vanished
	CallbackForgotten CallbackReason = "forgotten" // its evaluation is not kept any more
)

// Final reports whether another try would end in the same way.
func (r CallbackReason) Final() bool {
	return r == CallbackRefused || r == CallbackGone || r == CallbackForgotten
}

// Delivery is what became of one try: success where Reason is empty.
type Delivery struct {
	Reason     CallbackReason `json:"reason,omitempty"`
	Message    string         `json:"message,omitempty"`     // for people, without the URL
	HTTPStatus int            `json:"http_status,omitempty"` // 0: no answer
	RetryAfter time.Duration  `json:"retry_after,omitempty"` // not sooner than this, nanoseconds
}

// callbackDelays are the times between one try and the next, about a day in
// all, so that a receiver may be away for a night.
var callbackDelays = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
}

// MaxCallbackDelay is the most that a receiver's Retry-After is honoured.
const MaxCallbackDelay = 12 * time.Hour

// CallbackTries is how often a callback is tried before it is dead.
func CallbackTries() int { return len(callbackDelays) + 1 }

// callback makes the callback of an evaluation that ends now; nil where none
// was asked for.
func (e Evaluation) callback(now time.Time) *Callback {
	if e.Spec.CallbackURL == "" {
		return nil
	}
	c := &Callback{
		Key: e.Key, URL: e.Spec.CallbackURL, Status: CallbackPending, MaxTries: CallbackTries(), NextAt: &now, CreatedAt: now,
	}
	if u, err := url.Parse(c.URL); err == nil {
		c.Host = strings.ToLower(u.Hostname())
	}
	return c
}

// Take gives a callback that is due to a deliverer until now + lease. ok is
// false when there is nothing to deliver: it is not due, or its last deliverer
// has vanished and there is no try left, which makes it dead.
func (c Callback) Take(deliverer string, lease time.Duration, now time.Time) (_ Callback, ok bool) {
	if c.Status != CallbackPending || c.NextAt.After(now) {
		return c, false
	}
	if c.Deliverer != "" {
		c.Reason, c.Message, c.HTTPStatus = CallbackLost, fmt.Sprintf("deliverer %s vanished during try %d", c.Deliverer, c.Tries), 0
		if c.Tries >= c.MaxTries {
			return c.end(CallbackDead, now), false
		}
	}
	c.Tries++
	c.Deliverer, c.NextAt = deliverer, ptr(StoreTime(now.Add(lease)))
	return c, true
}

// Report applies what became of a try that still holds the callback;
// otherwise it is a KindLeaseLost error. rnd lies in [0, 1) and is the jitter
// of the next delay: up to a quarter is added.
func (c Callback) Report(try int, d Delivery, now time.Time, rnd float64) (Callback, error) {
	if c.Deliverer == "" || c.Tries != try {
		return c, &Error{Kind: KindLeaseLost,
			Message: fmt.Sprintf("try %d no longer holds the callback of evaluation %s: it is %s after %d tries", try, c.ID, c.Status, c.Tries)}
	}
	c.Reason, c.Message, c.HTTPStatus = d.Reason, d.Message, d.HTTPStatus
	switch {
	case d.Reason == "":
		return c.end(CallbackDelivered, now), nil
	case d.Reason.Final(), c.Tries >= c.MaxTries:
		return c.end(CallbackDead, now), nil
	}
	n := c.Tries - (c.MaxTries - CallbackTries()) // tries since it was written, or retried by hand
	delay := callbackDelays[max(min(n, len(callbackDelays)), 1)-1]
	delay += time.Duration(rnd * float64(delay) / 4)
	c.Deliverer, c.NextAt = "", ptr(StoreTime(now.Add(max(delay, min(d.RetryAfter, MaxCallbackDelay)))))
	return c, nil
}

// Retry makes a dead callback due now, with all of its tries. Any other status
// is a KindConflict error.
func (c Callback) Retry(now time.Time) (Callback, error) {
	if c.Status != CallbackDead {
		return c, &Error{Kind: KindConflict, Message: fmt.Sprintf("the callback of evaluation %s cannot be retried: it is %s", c.ID, c.Status)}
	}
	c.Status, c.MaxTries, c.NextAt, c.EndedAt = CallbackPending, c.Tries+CallbackTries(), &now, nil
	return c, nil
}

func (c Callback) end(s CallbackStatus, now time.Time) Callback {
	c.Status, c.Deliverer, c.NextAt, c.EndedAt = s, "", nil, &now
	return c
}

// NoCallback is the error for a callback that is not there.
func (k Key) NoCallback() error {
	return &Error{Kind: KindNotFound, Message: fmt.Sprintf("evaluation %q has no callback", string(k.ID))}
}

// Missing is the error for a try at a callback that is not there.
func (l CallbackLease) Missing() error {
	return &Error{Kind: KindLeaseLost, Message: fmt.Sprintf("try %d holds nothing: evaluation %q has no callback", l.Try, string(l.ID))}
}

// Cursor is the place after c in a list of callbacks.
func (c Callback) Cursor() string { return Cursor{c.CreatedAt, c.ID}.encode("callbacks") }

// Check returns the query with its limit filled in, and its cursor, which is
// nil on the first page. KindInvalid.
func (q CallbackQuery) Check() (CallbackQuery, *Cursor, error) {
	limit, cursor, err := checkPage("callbacks", q.Limit, q.Cursor, q.Project, string(q.Status))
	q.Limit = limit
	return q, cursor, err
}
