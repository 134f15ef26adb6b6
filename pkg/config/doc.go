// Package config gives the programs one way to be configured. A setting is a
// command line flag that also has an environment variable CRUCIBLE_...; the
// same settings may stand in a YAML file. What counts, the strongest first:
// flag, environment, file, default.
//
// The file's keys are the flags' names in snake_case. Settings for one command
// only stand below its name and win over those at the top:
//
//	redis_url: redis://127.0.0.1:6379/0
//	worker:
//	  listen: 127.0.0.1:8081
package config
