"""`tests.traffic` counts what a device sends, on a small HLO program."""

import pytest

from tests import traffic

HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
}
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
}
%one (p: f32[8]) -> f32[8] {
  %b = bf16[4,10]{1,0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
}
%other (p: f32[8]) -> f32[8] {
  %c = f32[10]{0} collective-permute(%x), source_target_pairs={{0,1}}
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %d = (s32[], f32[8]) while(%t), body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %e = (f32[1,3]{1,0}, f32[1,3]{1,0}) all-to-all(%p, %p), replica_groups={{0,1},{2,3}}
  %f = f32[8]{0} conditional(%i, %p, %p), branch_computations={%one, %other}
  %g = f32[5]{0} reduce-scatter(%e), replica_groups={}, to_apply=%add
}
"""


def test_what_a_program_sends_is_counted():
    assert traffic.bytes_sent(HLO, 8) == {
        "all-reduce": 5 * 2 * 3 / 4 * 32,
        "all-to-all": 1 / 2 * 24,
        "all-gather": 3 / 4 * 80,
        "collective-permute": 40,
        "reduce-scatter": 7 / 8 * 160,
    }
    with pytest.raises(AssertionError, match="in a loop of unknown length"):
        traffic.bytes_sent(HLO.replace("known_trip_count", "unknown"), 8)
