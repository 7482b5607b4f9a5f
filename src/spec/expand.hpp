// From the merged document to trials.
#pragma once

#include "document.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::spec {

/// The document's trials in order: blocks one after the other; in a block points turn slowest, then zip, then the sample, then the grid's axes, the
/// last fastest. Derived values are computed from the trial as it stands after everything else. Trials of equal id are dropped and counted, so are
/// excluded ones; a combination that makes no sense is a `config` error.
Sweep expand(const Document& document, const Selection& selection = {});

/// The one config of a trial's file.
train::TrialConfig expand_trial(const Document& document);

/// The config of the document's own keys, whatever else it holds; combinations are not judged.
train::TrialConfig config_of(const Document& document);

/// The document as JSON that, read as a sweep file, gives the same trials and needs no other file.
Json resolved_json(const Document& document, const std::string& name);

}  // namespace moesweep::spec
