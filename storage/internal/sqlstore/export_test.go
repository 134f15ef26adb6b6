package sqlstore

// Asked are the questions that are asked each time the queue is fed or
// evaluations join a line, with values for them, by name.
func Asked(s *Store) map[string]Question {
	const priority, window = "default", 8
	lock := s.dialect.skipLocked
	some, values := selectSome(1, window)
	return map[string]Question{
		"is there any":        {some, values},
		"whose time has come": {limit(selectCame, 200) + lock, []any{1}},
		"whose turn it is":    {limit(selectNext, window) + lock, []any{priority}},
		"next of a client":    {limit(selectHeads, window) + lock, []any{priority, "default", "client-1"}},
		"how it stands":       {limit(selectStanding, window), []any{priority, priority, priority, priority, "default", "client-1"}},
		"which clients wait":  {limit(selectFlows(s.dialect), 3), []any{priority, priority, priority}},
	}
}

// Question is a statement and its values.
type Question struct {
	SQL    string
	Values []any
}
