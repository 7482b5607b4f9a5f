# Our own code compiles without a warning; dependencies are system includes. Sanitizers and assertions are set here too.
add_library(moesweep_warnings INTERFACE)
target_compile_options(moesweep_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough -Wextra-semi -Werror
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # GCC 12 warns falsely in std::string (bug 105329)
if(MOESWEEP_SANITIZE)
  # GCC 12 with sanitizers warns falsely inside <regex>.
  target_compile_options(moesweep_warnings INTERFACE -fsanitize=${MOESWEEP_SANITIZE} -fno-omit-frame-pointer -g1 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(moesweep_warnings INTERFACE -fsanitize=${MOESWEEP_SANITIZE})
endif()
if(MOESWEEP_ASSERTIONS)
  target_compile_definitions(moesweep_warnings INTERFACE _GLIBCXX_ASSERTIONS=1)
endif()
