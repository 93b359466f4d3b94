# Configures, builds and runs a project against the installed tree.
# SOURCE, WORK: folders; PREFIX: the installed tree; PROGRAMS: what to run, names in WORK; ARGUMENTS: for its configuration.
file(REMOVE_RECURSE ${WORK})
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${result}: ${ARGN}")
  endif()
endfunction()
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK} -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${PREFIX} -DCMAKE_BUILD_TYPE=Release
    -DCMAKE_FIND_USE_PACKAGE_REGISTRY=OFF ${ARGUMENTS})
if(NOT PROGRAMS)
  return()
endif()
run(${CMAKE_COMMAND} --build ${WORK} --parallel 2)
foreach(program IN LISTS PROGRAMS)
  run(${WORK}/${program})
endforeach()
