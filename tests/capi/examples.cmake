# The examples: each is built and run as its readers would, and prints the same as the one in C.
# A compiler that is not there is a failure, not a reason to leave the test out.
set(examples ${PROJECT_SOURCE_DIR}/capi/examples)
set(transcripts ${CMAKE_CURRENT_BINARY_DIR}/transcripts)
file(MAKE_DIRECTORY ${transcripts})

add_executable(capi_example_c ${examples}/c/decode.c)
set_target_properties(capi_example_c PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
target_compile_options(capi_example_c PRIVATE -pedantic -Wall -Wextra)
target_link_libraries(capi_example_c PRIVATE swell::c m)

# swell_example(LANGUAGE FOLDER ... BUILD ... RUN ... ENVIRONMENT ...)
function(swell_example language)
  cmake_parse_arguments(ARG "" "FOLDER" "BUILD;RUN;ENVIRONMENT" ${ARGN})
  set(expected ${transcripts}/c.txt)
  set(role FIXTURES_REQUIRED)
  set(label language)
  if(language STREQUAL "c")
    set(label "")
    set(expected "")
    set(role FIXTURES_SETUP)
  endif()
  add_test(NAME capi_example_${language} COMMAND ${CMAKE_COMMAND}
    "-DFOLDER=${ARG_FOLDER}" "-DBUILD=${ARG_BUILD}" "-DRUN=${ARG_RUN}"
    "-DTRANSCRIPT=${transcripts}/${language}.txt" "-DEXPECTED=${expected}"
    -P ${CMAKE_CURRENT_SOURCE_DIR}/run_example.cmake)
  set_tests_properties(capi_example_${language} PROPERTIES
    TIMEOUT 600
    ENVIRONMENT "LD_LIBRARY_PATH=$<TARGET_FILE_DIR:swell_c>;${ARG_ENVIRONMENT}"
    LABELS "${label}"
    ${role} capi_transcript)
endfunction()
swell_example(c FOLDER ${examples}/c RUN $<TARGET_FILE:capi_example_c>)
if(SWELL_SANITIZE)
  return()  # programs of other languages do not carry the sanitizer's run-time library
endif()

find_program(SWELL_CARGO cargo DOC "Rust's build tool, for the example")
find_program(SWELL_GO go DOC "Go's build tool, for the example")
find_program(SWELL_NUMPY_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH DOC "A Python that has numpy, for the example")

set(package_path PKG_CONFIG_PATH=${PROJECT_BINARY_DIR}/capi/pkgconfig)
swell_example(rust FOLDER ${examples}/rust
  BUILD ${SWELL_CARGO} build --release --offline --locked --target-dir ${CMAKE_CURRENT_BINARY_DIR}/rust
  RUN ${CMAKE_CURRENT_BINARY_DIR}/rust/release/swell-decode
  ENVIRONMENT ${package_path})
swell_example(go FOLDER ${examples}/go
  BUILD ${SWELL_GO} build -o ${CMAKE_CURRENT_BINARY_DIR}/go/swell-decode .
  RUN ${CMAKE_CURRENT_BINARY_DIR}/go/swell-decode
  ENVIRONMENT ${package_path} GOCACHE=${CMAKE_CURRENT_BINARY_DIR}/go/cache GOFLAGS=-mod=readonly GOPROXY=off
              CGO_ENABLED=1)
swell_example(python FOLDER ${examples}/python
  RUN ${SWELL_NUMPY_PYTHON} -B decode.py
  ENVIRONMENT SWELL_LIBRARY=$<TARGET_FILE:swell_c>)
