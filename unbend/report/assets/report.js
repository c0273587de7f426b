// Draws the line plots of a report: the specifications are JSON in #plots, made by unbend/report/html.cc.
(() => {
  "use strict";

  const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seriesColor = series => color(`--c${series.color % 8}`);
  const isNumber = v => v !== null && v !== undefined && Number.isFinite(v);

  // 4096 on a base-2 axis is 4K; 12000 elsewhere is 12k; 0.00003 is 3e-5.
  function format(value, axis) {
    if (!isNumber(value)) return "";
    const size = Math.abs(value);
    if (axis.scale === "log2" && size >= 1024 && value % 1024 === 0) {
      return size >= 1048576 && value % 1048576 === 0 ? value / 1048576 + "M" : value / 1024 + "K";
    }
    if (size !== 0 && (size < 1e-3 || size >= 1e15)) return value.toExponential(2).replace(/\.?0+e/, "e");
    for (const [scale, suffix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (size >= scale) return +(value / (suffix === "k" ? 1e3 : scale)).toPrecision(4) + suffix;
    }
    return String(+value.toPrecision(4));
  }

  // From the smallest to the largest visible value with a margin; a linear axis near zero starts there.
  function range(values, axis, margin) {
    let low = Infinity, high = -Infinity;
    for (const v of values) {
      if (!isNumber(v) || (axis.scale !== "linear" && v <= 0)) continue;
      low = Math.min(low, v);
      high = Math.max(high, v);
    }
    if (low > high) [low, high] = axis.scale === "linear" ? [0, 1] : [1, 10];
    if (axis.scale === "linear") {
      const pad = (high - low || Math.abs(high) || 1) * margin;
      const fromZero = margin > 0.02 && low >= 0 && low < 0.35 * high;
      [low, high] = [fromZero ? 0 : low - pad, high + pad];
    } else {
      const pad = Math.max((high / low) ** margin, 1.02);
      [low, high] = [low / pad, high * pad];
    }
    return [axis.min ?? low, axis.max ?? high];
  }

  // Ticks of a logarithmic axis: the measured points if they are few, else powers, with 2 and 5 between where there is room.
  function logTicks(low, high, axis, points, room) {
    const inside = t => t >= low * 0.999 && t <= high * 1.001;
    const few = [...new Set(points)].filter(inside).sort((a, b) => a - b);
    if (few.length > 1 && few.length <= room) return few;
    const base = axis.scale === "log2" ? 2 : 10, ticks = [];
    for (let e = Math.floor(Math.log(low) / Math.log(base)); base ** e <= high * 1.001; ++e) ticks.push(base ** e);
    let kept = ticks.filter(inside);
    if (base === 10 && kept.length < 3) {
      for (const factors of [[1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
        kept = ticks.flatMap(t => factors.map(f => f * t)).filter(inside);
        if (kept.length >= 3) break;
      }
    }
    const step = Math.ceil(kept.length / room);
    return kept.filter((_, i) => i % step === 0);
  }

  function axisOptions(axis, side, points) {
    const vertical = side === 3;
    const options = {
      label: axis.label, side, labelGap: 2, labelSize: 22, size: vertical ? 50 : 34, gap: 4,
      font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif",
      stroke: () => color("--soft"),
      grid: {stroke: () => color("--grid"), width: 1}, ticks: {stroke: () => color("--rule"), width: 1, size: 4},
      values: (u, splits) => splits.map(v => format(v, axis)),
      space: vertical ? 42 : 62,
    };
    if (axis.scale !== "linear") {
      options.splits = (u, i, low, high) => {
        const length = vertical ? u.height - 70 : u.width - 80;
        return logTicks(low, high, axis, points, Math.max(2, Math.floor(length / (vertical ? 36 : 52))));
      };
      options.filter = (u, splits) => splits;
    }
    return options;
  }

  // Error bars or bands go under the lines, on uPlot's canvas.
  function drawSpread(u, spec) {
    const {ctx} = u, px = uPlot.pxRatio, floor = u.scales.y.min;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    spec.series.forEach((s, index) => {
      if (!u.series[index + 1].show || s.low.length === 0) return;
      const at = s.x.map((x, i) => [x, s.low[i], s.high[i]]).filter(p => isNumber(p[1]) && isNumber(p[2]))
        .map(([x, low, high]) => [u.valToPos(x, "x", true), u.valToPos(Math.max(low, floor), "y", true),
                                  u.valToPos(Math.max(high, floor), "y", true)]);
      ctx.strokeStyle = ctx.fillStyle = seriesColor(s);
      ctx.beginPath();
      if (spec.band) {
        ctx.globalAlpha = 0.18;
        at.forEach(([x, low, high]) => ctx.lineTo(x, high));
        at.reverse().forEach(([x, low]) => ctx.lineTo(x, low));
        ctx.fill();
      } else {
        ctx.globalAlpha = 0.75;
        ctx.lineWidth = 1.3 * px;
        const cap = 3.5 * px;
        for (const [x, low, high] of at) {
          for (const [x0, y0, x1, y1] of [[x, low, x, high], [x - cap, low, x + cap, low], [x - cap, high, x + cap, high]]) {
            ctx.moveTo(x0, y0);
            ctx.lineTo(x1, y1);
          }
        }
        ctx.stroke();
      }
    });
    ctx.restore();
  }

  function swatch(series) {
    const c = `var(--c${series.color % 8})`;
    return series.dashed ? `repeating-linear-gradient(90deg, ${c} 0 5px, transparent 5px 8px)` : c;
  }

  function draw(target, spec) {
    const tables = spec.series.map(s => [s.x, s.y]);
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0];
    const height = () => Math.round(Math.min(360, Math.max(260, target.clientWidth * 0.62)));
    const scale = axis => axis.scale === "linear" ? {} : {distr: 3, log: axis.scale === "log2" ? 2 : 10};
    const visible = (u, pick) => spec.series.flatMap((s, i) => u.series[i + 1].show ? pick(s) : []);
    const inspect = (u, on) => u.root.querySelector(".u-legend").classList.toggle("u-inspecting", on);

    const plot = new uPlot({
      width: target.clientWidth, height: height(),
      padding: [10, 14, 0, 0],
      cursor: {points: {size: 8, fill: (u, i) => seriesColor(spec.series[i - 1])}, drag: {x: true, y: false}},
      scales: {
        x: {time: false, ...scale(spec.x), range: (u, low, high) =>
              low !== u.data[0][0] || high !== u.data[0][u.data[0].length - 1] ? [low, high] : range(u.data[0], spec.x, 0.02)},
        y: {...scale(spec.y), range: u => range(visible(u, s => [...s.y, ...s.low, ...s.high]), spec.y, 0.06)},
      },
      axes: [axisOptions(spec.x, 2, data[0]), axisOptions(spec.y, 3, [])],
      series: [
        {label: spec.x.label, value: (u, v) => format(v, spec.x)},
        ...spec.series.map(s => ({
          label: s.name, stroke: () => seriesColor(s), width: 2, dash: s.dashed ? [7, 5] : undefined,
          points: {show: s.x.length <= 40, size: 6, fill: () => color("--paper")},
          value: (u, v) => format(v, spec.y),
        })),
      ],
      legend: {markers: {width: 0, fill: (u, i) => i > 0 ? swatch(spec.series[i - 1]) : "transparent"}},
      hooks: {
        drawAxes: [u => drawSpread(u, spec)],
        setCursor: [u => inspect(u, u.cursor.left >= 0 && u.cursor.idx !== null)],
      },
    }, data, target);

    const fit = () => plot.setSize({width: target.clientWidth, height: height()});
    new ResizeObserver(() => {
      if (target.clientWidth !== plot.width && target.clientWidth > 0) requestAnimationFrame(fit);
    }).observe(target);
    return {plot, fit};
  }

  const specs = JSON.parse(document.getElementById("plots").textContent);
  const plots = specs.map((spec, i) => draw(document.getElementById(`p${i}`), spec));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(p => p.plot.redraw(false, true)));
  // Two columns on paper, in the colours of the light scheme.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    plots.forEach(({plot}) => plot.setSize({width: 320, height: 230}));
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    plots.forEach(({fit}) => fit());
  });
})();
