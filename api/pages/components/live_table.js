// A table that keeps its rows in place while their figures change: focus and selection stay where they are.
export default {
  template: `
  <div class="table-box" :class="{stack: stack}" role="region" :aria-label="label" :tabindex="stack ? null : 0">
    <table v-if="rows.length">
      <caption class="unseen">{{ label }}</caption>
      <thead><tr>
        <th v-for="(column, at) in columns" :key="at" :class="column.kind" scope="col" :aria-sort="sorted(at)">
          <button v-if="column.sorts" type="button" class="sorter" @click="sortBy(at)">{{ column.title }}<span
            aria-hidden="true" class="arrow">{{ by !== at ? '' : down ? ' ↓' : ' ↑' }}</span></button>
          <template v-else>{{ column.title }}</template>
        </th>
      </tr></thead>
      <tbody>
        <tr v-for="row in shown" :key="row.key" :class="row.tone">
          <td v-for="(cell, at) in row.cells" :key="at" :class="[columns[at].kind, cell.tone]" :data-label="columns[at].title"
              :title="cell.hint">
            <a v-if="cell.to" :href="cell.to">{{ cell.text }}</a>
            <span v-else-if="cell.chip" class="chip" :class="cell.chip">{{ cell.text }}</span>
            <span v-else-if="cell.acts" class="acts"><button v-for="act in cell.acts" :key="act.name" type="button" class="act small"
              :class="act.tone" :aria-label="act.aria || act.text" @click="$emit('act', {key: row.key, act: act.name})">{{ act.text }}</button></span>
            <template v-else>{{ cell.text }}</template>
            <small v-if="cell.more">{{ cell.more }}</small>
          </td>
        </tr>
      </tbody>
    </table>
    <p v-else class="empty">{{ empty }}</p>
  </div>`,
  props: { columns: Array, rows: Array, empty: String, label: String, stack: Boolean },
  emits: ["act"],
  data() {
    return { by: null, down: false };
  },
  computed: {
    shown() {
      if (this.by === null) return this.rows;
      const value = (row) => row.cells[this.by].order ?? row.cells[this.by].text ?? "";
      const sign = this.down ? -1 : 1;
      return [...this.rows].sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      });
    },
  },
  methods: {
    sortBy(at) {
      if (this.by === at && this.down) [this.by, this.down] = [null, false];
      else if (this.by === at) this.down = true;
      else [this.by, this.down] = [at, false];
    },
    sorted(at) {
      return this.by !== at ? null : this.down ? "descending" : "ascending";
    },
  },
};
