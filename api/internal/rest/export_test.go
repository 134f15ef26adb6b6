package rest

// What the tests of decoders and parsers look at.
var (
	DecodeSpec     = decodeSpec
	Fingerprint    = fingerprint
	ViewStream     = viewStream
	ParsePositions = func(s string) (string, bool) { p, ok := parsePositions(s); return p.String(), ok }
	ParsePlace     = func(s string) (string, bool) { p, ok := parsePlace(s); return p.String(), ok }
)
